"""Find images of a version that are one picture: equal bytes, and near-duplicates. No Prefect or TensorFlow here.

from workers.jobs.leaks import find_leaks
found = find_leaks(space, version)   # a workers.jobs.records.Space with `images`, and a version of its store
found.table                          # path, class, split, finding, partner, score
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from storage.backend.paths import Place, place
from storage.manifest.versions import Version
from storage.reading.pooled import pooled_files, pooled_vectors
from storage.text import count
from vision.inspection.close_pairs import close_pairs
from vision.inspection.groups import FINDINGS, Copies, Fault, faults, groups
from vision.inspection.same_picture import SAME, SIDE, same_picture
from vision.pixels.decode import ImageError, decode
from vision.specs import FeatureSpec
from workers.jobs.files import read_image
from workers.jobs.records import Space

logger = logging.getLogger(__name__)

# Pairs of images with more similar features are compared as pictures (benchmarks/near_duplicates.py).
CANDIDATE_SIMILARITY = 0.85
NEAR = 0.999999  # the highest score of pictures whose bytes differ
PARTNERS = 32  # candidates of an image that are compared
PICTURES = 8192  # small pictures in memory, 12 KB each

SCHEMA = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("finding", pa.string(), nullable=False),
        pa.field("partner", pa.binary(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows of pooled vectors that are one picture, each once: first < second, score below 1.

    unread: images that have candidates but could not be read now. cut: images that had more candidates than were compared.
    """

    first: np.ndarray
    second: np.ndarray
    score: np.ndarray
    unread: int
    cut: int


@dataclass(frozen=True)
class Leaks:
    """The findings of a version.

    table: SCHEMA, sorted by finding (leak, conflict, redundant), then path. score is 1 for equal bytes. unread, cut: as in Pairs.
    """

    table: pa.Table
    unread: int
    cut: int


def find_leaks(space: Space, version: Version, report: Callable[[int, int], None] = lambda done, total: None) -> Leaks:
    """Find leaks between splits, conflicts between classes, and redundant images. Reads the files of candidates again.

    Removing every `path` of `leak` and `redundant` leaves each picture once in each class, on the side that was held out.
    report: receives the numbers of compared and of all images. Raises StoreDamaged if features are missing or damaged.
    """
    vectors = pooled_vectors(space.store, version, check=("average",))
    files = pooled_files(space.store, version, vectors)
    found = near_pairs(space, vectors.average, files, report)
    if found.unread:
        logger.warning(
            "%s of near-duplicate candidates cannot be read now and were not compared", count(found.unread, "file")
        )
    if found.cut:
        logger.warning(
            "%s more than %d candidates; the most similar were compared",
            count(found.cut, "image has", "images have"),
            PARTNERS,
        )
    return Leaks(_table(files, list(_faults(files, found))), found.unread, found.cut)


def near_pairs(
    space: Space, average: np.ndarray, files: pa.Table, report: Callable[[int, int], None] = lambda done, total: None
) -> Pairs:
    """The pairs of images with different bytes that are one picture. files: as `pooled_files` returns them."""
    rows, at = np.unique(files["row"].to_numpy(), return_index=True)
    picture = _pictures(space, files, dict(zip(rows.tolist(), at.tolist(), strict=True)))
    found: list[tuple[int, int, float]] = []
    unread: set[int] = set()
    cut = 0
    for pairs in close_pairs(average, rows, CANDIDATE_SIMILARITY, PARTNERS):
        cut += pairs.cut
        for one, other in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
            small = picture(one), picture(other)
            unread |= {row for row, pixels in zip((one, other), small, strict=True) if pixels is None}
            if small[0] is None or small[1] is None:
                continue
            score = same_picture(small[0], small[1])
            if score >= SAME:
                found.append((one, other, min(score, NEAR)))
        if len(pairs.first):
            report(int(pairs.first[-1]), len(rows))
    first, second, scores = np.array(found, float).reshape(-1, 3).T
    return Pairs(first.astype(np.int64), second.astype(np.int64), scores, len(unread), cut)


def _pictures(space: Space, files: pa.Table, at: dict[int, int]) -> Callable[[int], np.ndarray | None]:
    """A function from a row of the vectors to its small picture; None if its file cannot be read now. at: row → a file."""
    root = place(space.images)

    @lru_cache(PICTURES)
    def picture(row: int) -> np.ndarray | None:
        (file,) = files.slice(at[row], 1).to_pylist()
        return small_picture(root, file["path"], file["digest"], space.spec)

    return picture


def small_picture(root: Place, path: bytes, digest: bytes, spec: FeatureSpec) -> np.ndarray | None:
    """(SIDE, SIDE, 3) uint8 of a file; None if it cannot be read now, or has other bytes."""
    try:
        return decode(read_image(root, path, digest), SIDE, spec.exif, spec.sixteen_bit)
    except ImageError:
        return None


def _faults(files: pa.Table, found: Pairs) -> Iterator[Fault]:
    """What is wrong with each group of files. A file has its place in `files`, a picture the row of its vectors."""
    scores: dict[int, dict[int, float]] = {}
    for one, other, score in zip(found.first.tolist(), found.second.tolist(), found.score.tolist(), strict=True):
        scores.setdefault(one, {})[other] = score
        scores.setdefault(other, {})[one] = score
    rows = files["row"].to_numpy()
    counts = np.bincount(rows)
    involved = np.flatnonzero((counts[rows] > 1) | np.isin(rows, list(scores)))
    copies: dict[tuple[int, str, str], list[int]] = {}
    for number, file in zip(involved.tolist(), files.take(pa.array(involved)).to_pylist(), strict=True):
        copies.setdefault((file["row"], file["class"], file["split"]), []).append(number)
    of = groups(found.first, found.second)
    by_group: dict[int, list[Copies]] = {}
    for (row, label, split), numbers in copies.items():
        by_group.setdefault(of.get(row, row), []).append(Copies(row, label, split, numbers))
    for group in by_group.values():
        yield from faults(group, scores)


def _table(files: pa.Table, found: list[Fault]) -> pa.Table:
    found.sort(key=lambda fault: (FINDINGS.index(fault.finding), fault.file))
    own = files.take(pa.array([fault.file for fault in found], pa.int64()))
    partners = files["path"].take(pa.array([fault.partner for fault in found], pa.int64()))
    columns = [
        *(own[name] for name in ("path", "class", "split")),
        pa.array([fault.finding for fault in found], pa.string()),
        partners,
        pa.array([fault.score for fault in found], pa.float64()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
