"""Inspect the data of a version: leaks, suspect labels and odd pictures, as a report and as tables. Runs in a child; no Prefect here."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.atomic import make_folder
from storage.manifest.versions import read_version
from storage.reading.figures import read_figures
from storage.reading.inspections import note_inspection
from storage.reading.pooled import pooled_files, pooled_vectors
from storage.reading.pooled_file import PooledVectors
from vision.inspection.held_out import hold_out
from vision.inspection.outliers import far_threshold, neighbour_distances
from vision.inspection.quality import KINDS, Quality, oddities
from vision.inspection.suspects import find_suspects
from vision.training.folds import FOLDS
from workers.jobs.extract import peak_rss_mb
from workers.jobs.inspection_files import REPORT, SCHEMA, write_files
from workers.jobs.leaks import find_leaks
from workers.jobs.quality import NAMES, quality_folder
from workers.jobs.quality import SCHEMA as QUALITY_SCHEMA
from workers.jobs.records import Space

ORDER = ("leak", "conflict", "suspect", "redundant", *KINDS, "far")
ROWS_AT_A_TIME = 16_384


@dataclass(frozen=True)
class InspectJob:
    """Inspect a version. space: with the folder of its images. out: the folder to write to."""

    space: Space
    version: int
    out: str

    def record(self) -> dict:
        """The job as JSON types."""
        return asdict(self)

    @classmethod
    def of(cls, record: dict) -> "InspectJob":
        """From record(), also after JSON."""
        return cls(**record | {"space": Space.of(record["space"])})


@dataclass(frozen=True)
class Inspected:
    """What an inspection found, as JSON types.

    findings: kind → number of images, every kind of ORDER. unread: files that could not be read now, of pairs that look alike. unmeasured:
    images without figures of their picture, for the same reason. unjudged: classes with too few images to judge their labels.
    far_above: cosine distance above which an image is far from the others; None if there are too few images.
    """

    version: int
    images: int
    classes: int
    findings: dict[str, int]
    unread: int
    unmeasured: int
    unjudged: tuple[str, ...]
    far_above: float | None
    peak_rss_mb: float

    @classmethod
    def of(cls, record: dict) -> "Inspected":
        """From its fields as JSON types."""
        return cls(**record | {"unjudged": tuple(record["unjudged"])})


def inspect_data(job: InspectJob, report: Callable[[dict], None] = lambda record: None) -> Inspected:
    """Find faults in the data of a version, and write report.html, findings.parquet, findings.csv and review.csv."""
    space, version = job.space, read_version(job.space.store, job.version)
    vectors = pooled_vectors(space.store, version)
    files = pooled_files(space.store, version, vectors)
    leaks = find_leaks(space, version, lambda done, total: report({"done": done, "total": total}))
    suspects, unjudged = _suspects(files, vectors, space)
    odd, unmeasured = _odd(files, space)
    far, above = _far(files, vectors)
    table = pa.concat_tables([_leaks(leaks.table, files), suspects, odd, far])
    counts = Counter(table["finding"].to_pylist())
    found = Inspected(
        version=version.number,
        images=files.num_rows,
        classes=len(pc.unique(files["class"])),
        findings={name: counts.get(name, 0) for name in ORDER},
        unread=leaks.unread,
        unmeasured=unmeasured,
        unjudged=unjudged,
        far_above=None if np.isinf(above) else above,
        peak_rss_mb=peak_rss_mb(),
    )
    out = Path(job.out)
    make_folder(out)
    write_files(space, version, table, asdict(found), out)
    note_inspection(space.store, version.number, str(out / REPORT))
    return found


def _images(files: pa.Table, vectors: PooledVectors) -> np.ndarray:
    """(n,) uint64 from the digests of the files."""
    return np.ascontiguousarray(vectors.digests[files["row"].to_numpy()][:, :8]).view("<u8").ravel()


def _rows_of(
    files: pa.Table, places: np.ndarray, finding: str | list[str], score: np.ndarray, **more: pa.Array
) -> pa.Table:
    """Findings of files at these places, in SCHEMA."""
    own = files.take(pa.array(places, pa.int64()))
    kinds = pa.array([finding] * len(places) if isinstance(finding, str) else finding, pa.string())
    nothing = {name: pa.nulls(len(places), SCHEMA.field(name).type) for name in ("partner", "suggested")}
    columns = {"finding": kinds, "score": pa.array(score, pa.float64()), **nothing, **more}
    return pa.table(
        {name: columns.get(name, own[name] if name in own.schema.names else None) for name in SCHEMA.names}
    ).cast(SCHEMA)


def _leaks(table: pa.Table, files: pa.Table) -> pa.Table:
    at = pc.index_in(table["path"].combine_chunks(), files["path"].combine_chunks()).to_numpy()
    kinds = table["finding"].to_pylist()
    return _rows_of(files, at, kinds, table["score"].to_numpy(), partner=table["partner"].combine_chunks())


def _suspects(files: pa.Table, vectors: PooledVectors, space: Space) -> tuple[pa.Table, tuple[str, ...]]:
    """The suspect labels, and the classes that have too few images for a judgement."""
    names = sorted(pc.unique(files["class"]).to_pylist())
    labels = pc.index_in(files["class"].combine_chunks(), pa.array(names, pa.string())).to_numpy().astype(np.int64)
    rows, images = files["row"].to_numpy(), _images(files, vectors)
    pairs = np.unique(np.stack([labels.astype(np.uint64), images]), axis=1)
    judged = np.bincount(pairs[0].astype(np.int64), minlength=len(names)) >= FOLDS
    unjudged = tuple(name for name, is_judged in zip(names, judged, strict=True) if not is_judged)
    if judged.sum() < 2:
        return SCHEMA.empty_table(), tuple(names)
    parts = 2 if len(space.spec.shape) > 1 else 1

    def features(places: np.ndarray) -> np.ndarray:
        at = rows[places]
        return np.hstack([vectors.average[at], vectors.maximum[at]][:parts])

    held = hold_out(features, labels, images, len(names), parts)
    found = find_suspects(held.blocks, labels, len(names), judged)
    suggested = pa.array(names, pa.string()).take(pa.array(found.suggested))
    return _rows_of(files, found.places, "suspect", found.score, suggested=suggested), unjudged


def _odd(files: pa.Table, space: Space) -> tuple[pa.Table, int]:
    """The odd pictures, and the number of images without figures."""
    figures = read_figures(quality_folder(space), QUALITY_SCHEMA)
    at = pc.index_in(files["digest"].combine_chunks(), figures["digest"].combine_chunks())
    odd = dict(_odd_rows(figures, space.spec.image_size))
    rows = pc.fill_null(at, -1).to_numpy()
    places = np.flatnonzero(np.isin(rows, list(odd))).tolist()
    found = [(place, *each) for place in places for each in odd[int(rows[place])]]
    found.sort(key=lambda each: (KINDS.index(each[1]), -each[2], each[0]))
    kinds, scores = [each[1] for each in found], np.array([each[2] for each in found], float)
    return _rows_of(files, np.array([each[0] for each in found], np.int64), kinds, scores), at.null_count


def _odd_rows(figures: pa.Table, image_size: int) -> Iterator[tuple[int, list[tuple[str, float]]]]:
    """The row of each odd picture, and what is odd about it. Memory holds a slice of the figures as Python numbers."""
    for start in range(0, figures.num_rows, ROWS_AT_A_TIME):
        columns = [figures[name].slice(start, ROWS_AT_A_TIME).to_pylist() for name in NAMES]
        for row, values in enumerate(zip(*columns, strict=True), start):
            if odd := list(oddities(Quality(*values), image_size)):
                yield row, odd


def _far(files: pa.Table, vectors: PooledVectors) -> tuple[pa.Table, float]:
    """The images that are far from all others, and the distance above which they are."""
    rows, first = np.unique(files["row"].to_numpy(), return_index=True)
    distances = neighbour_distances(lambda at: vectors.average[at], rows)
    above = far_threshold(distances)
    far = np.flatnonzero(distances > above)
    far = far[np.lexsort((rows[far], -distances[far]))]
    return _rows_of(files, first[far], "far", 1 - above / distances[far].astype(float)), above
