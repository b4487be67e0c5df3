"""What a prediction run has to do: which images are predicted already, which have stored features, which are new."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import StorageError
from storage.manifest.versions import latest_version, read_version
from storage.planning.chunks import cut
from storage.predictions.output import ROWS_AT_A_TIME, Columns
from storage.predictions.pieces import read_pieces
from storage.reasons import FILE_FAULTS
from storage.schemas import DIGEST, TODO_SCHEMA
from storage.shards.view_ids import PLAIN, plain
from storage.source.scan_files import read_table, write_table
from storage.source.unlabelled import Inbox
from storage.text import visible
from workers.jobs.opened_head import OpenedHead
from workers.jobs.records import PlanRecord, Space


@dataclass(frozen=True)
class InboxRecord:
    """Images without labels: a table at `path`, whose paths are below `root`.

    files: their number. ignored: the number of files that are no candidates. missing: paths of a list that name no file.
    """

    path: str
    root: str
    files: int
    ignored: int
    missing: int


@dataclass(frozen=True)
class PredictionPlan(PlanRecord):
    """The images to compute, as a plan of extraction has them, and those that need less.

    head: the name. pieces: the folder of predictions. known: the number of images that were predicted before. stored: the
    number of images with stored features; their digests lie there too. version: the version that has them; None is the newest.
    """

    head: str = ""
    pieces: str = ""
    keep_features: bool = False
    known: int = 0
    stored: int = 0
    version: int | None = None


def save_inbox(inbox: Inbox, files: pa.Table, folder: Path) -> InboxRecord:
    """Write a listing of images without labels for the steps of a run. files: the listing (storage/source/listing.py)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "inbox"
    paths = files["path"].to_pylist()
    files = files.append_column("name", pa.array([inbox.names.get(path, path) for path in paths], pa.binary()))
    write_table(path, files, {"missing": [name.hex() for name in inbox.missing]})
    missing = len(inbox.missing)
    return InboxRecord(str(path), str(inbox.scan.root), len(paths) + missing, inbox.scan.ignored, missing)


def make_plan(
    space: Space,
    inbox: InboxRecord,
    head: OpenedHead,
    pieces: Path,
    keep_features: bool = False,
    chunk_size: int | None = None,
    use_stored: bool = True,
    version: int | None = None,
) -> PredictionPlan:
    """Split the images by what they need, and write that to the folder of pieces.

    space: of the head, with weights. use_stored: whether stored features are read; else they are computed again. version: the
    version whose features are read; None is the newest.
    """
    files = read_table(Path(inbox.path))[0]
    files = files.filter(files["digest"].is_valid())
    images = files["digest"].combine_chunks().unique()
    rest = images.filter(pc.invert(pc.is_in(images, read_pieces(pieces, len(head.classes)).digests)))
    is_stored = pc.is_in(rest, _stored(space, version) if use_stored and not head.is_whole else rest.slice(0, 0))
    todo = _todo(files, rest.filter(pc.invert(is_stored)))
    write_table(pieces / "todo", todo)
    write_table(pieces / "stored", pa.table({"digest": rest.filter(is_stored)}))
    own = {"known": len(images) - len(rest), "stored": len(rest) - todo.num_rows, "version": version}
    own |= {"head": head.name, "pieces": str(pieces), "keep_features": keep_features}
    return _record(replace(space, images=inbox.root), pieces, todo.num_rows, chunk_size, own)


def _record(space: Space, folder: Path, images: int, chunk_size: int | None, own: Mapping[str, Any]) -> PredictionPlan:
    """own: the fields that a plan of extraction does not have."""
    where = cut(images, chunk_size)  # as an extraction cuts, so that no child waits long at the end
    return PredictionPlan(
        path=str(folder),
        space=space,
        parent=None,
        images=images,
        chunk_size=where.chunk_size,
        format="parquet",
        num_chunks=where.num_chunks(images),
        needs_commit=False,
        counts={},
        rows=images,
        full_chunks=where.full_chunks,
        **own,
    )


def _stored(space: Space, number: int | None) -> pa.Array:
    """The digests whose features a version has; none if it cannot be read, since they can be computed."""
    try:
        version = read_version(space.store, number) if number else latest_version(space.store)
        return plain(version.read_rows(space.store))["digest"].combine_chunks() if version else pa.array([], DIGEST)
    except (StorageError, OSError):
        return pa.array([], DIGEST)


def _todo(files: pa.Table, new: pa.Array) -> pa.Table:
    """The first path of each new digest, with the paths of equal files as its twins."""
    at = pc.index_in(files["digest"].combine_chunks(), new)
    files, at = files.filter(at.is_valid()), at.drop_null().to_numpy()
    order = np.argsort(at, kind="stable")
    paths = files["path"].take(pa.array(order)).to_pylist()
    bounds = np.searchsorted(at[order], np.arange(len(new) + 1)).tolist()
    groups = [paths[start:end] for start, end in pairwise(bounds)]  # the paths of each digest
    columns = {
        "digest": new,
        "path": [group[0] for group in groups],
        "split": [""] * len(groups),
        "views": [[PLAIN]] * len(groups),
        "twins": [group[1:] for group in groups],
    }
    return pa.table(columns, schema=TODO_SCHEMA)


def stored_digests(plan: PredictionPlan) -> str:
    """The digests of the images with stored features, as text for JSON."""
    digests = read_table(Path(plan.path) / "stored")[0]["digest"]
    return base64.b64encode(b"".join(digests.to_pylist())).decode()


def answers(inbox: InboxRecord, plan: PredictionPlan, columns: Columns) -> Iterator[pa.Table]:
    """The rows of the output, some thousands at a time, in order of path; then the paths of a list that name no file."""
    files = read_table(Path(inbox.path))[0]
    known = read_pieces(Path(plan.pieces), len(columns.classes), is_last_word=True)
    at = pc.index_in(files["digest"].combine_chunks(), known.digests)
    reasons = pc.coalesce(files["reason"].combine_chunks(), known.reasons.take(at))
    reasons = pc.if_else(pc.and_(at.is_null(), reasons.is_null()), "vanished", reasons)
    names = names_of(inbox)
    for start in range(0, files.num_rows, ROWS_AT_A_TIME):
        rows = at.slice(start, ROWS_AT_A_TIME)
        scores = np.full((len(rows), len(columns.classes)), np.nan, np.float32)
        is_known = rows.is_valid().to_numpy(zero_copy_only=False)
        scores[is_known] = known.probabilities(rows.drop_null().to_numpy())
        yield _rows(names.slice(start, len(rows)), reasons.slice(start, len(rows)), scores, columns)
    nothing = np.full((inbox.missing, len(columns.classes)), np.nan, np.float32)
    yield _rows(names.slice(files.num_rows), pa.array(["vanished"] * inbox.missing, pa.string()), nothing, columns)


def names_of(inbox: InboxRecord) -> pa.Array:
    """The column `path` of the output: how people see the paths of the images, then those of a list that name no file."""
    files, facts = read_table(Path(inbox.path))
    names = [*files["name"].to_pylist(), *(bytes.fromhex(name) for name in facts["missing"])]
    return pa.array([visible(name) for name in names], pa.string())


def _rows(names: pa.Array, reasons: pa.Array, scores: np.ndarray, columns: Columns) -> pa.Table:
    is_file_fault = pc.is_in(reasons, pa.array(list(FILE_FAULTS)))
    statuses = pc.if_else(reasons.is_null(), "ok", pc.if_else(is_file_fault, "pending", "quarantined"))
    return columns.rows(names, statuses, reasons, scores)
