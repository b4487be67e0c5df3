"""The file table of a version: each image with digest, label, split and status."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.schemas import DIGEST

OK, PENDING, QUARANTINED = "ok", "pending", "quarantined"

# The columns that matter to a reader of the version. Times and attempts do not.
CONTENT_COLUMNS = ("path", "digest", "class", "split", "status", "reason")


def with_status(
    files: pa.Table,
    has_row: pa.Array,
    failures: Mapping[bytes, str],
    variant_failures: Mapping[bytes, str] | None = None,
) -> pa.Table:
    """Set status and reason of each file from its digest.

    has_row: digests that have a plain row. failures, variant_failures: digest → reason.
    A file is `ok` if its digest has a plain row, whatever its failures. Else it is `quarantined` if it could not be
    read or its digest is in `failures`, else `pending`. An `ok` file has a reason if its variants cannot be made.
    """
    digests = files["digest"].combine_chunks()
    has_digest_row = pc.and_(pc.is_valid(digests), pc.is_in(digests, has_row))
    reason = pc.if_else(has_digest_row, _looked_up(digests, variant_failures or {}), _looked_up(digests, failures))
    reason = pc.if_else(pc.is_null(digests), files["reason"].combine_chunks(), reason)
    status = pc.if_else(has_digest_row, OK, pc.if_else(pc.is_valid(reason), QUARANTINED, PENDING))
    return _set(_set(files, "status", status), "reason", reason)


def _looked_up(digests: pa.Array, codes: Mapping[bytes, str]) -> pa.Array:
    """The reason code of each digest, null if it has none."""
    at = pc.index_in(digests, pa.array(list(codes), DIGEST)) if codes else pa.nulls(len(digests), pa.int32())
    return pc.take(pa.array([*codes.values(), None], pa.string()), at)


def with_attempts(files: pa.Table, attempts: Mapping[bytes, int]) -> pa.Table:
    """Raise each file's attempts to those of its digest (digest → attempts), because attempts follow the bytes."""
    at = pc.index_in(files["digest"].combine_chunks(), pa.array(list(attempts), DIGEST))
    known = pc.fill_null(pc.take(pa.array(attempts.values(), pa.int32()), at), 0)
    return _set(files, "attempts", pc.max_element_wise(files["attempts"].combine_chunks(), known))


def with_one_more_attempt(files: pa.Table, failures: Mapping[bytes, str]) -> pa.Table:
    """Add one attempt, made now, to each file that has no digest or whose digest is in `failures`."""
    tried = pc.or_(pc.is_null(files["digest"]), pc.is_in(files["digest"], pa.array(list(failures), DIGEST)))
    files = _set(files, "attempts", pc.add(files["attempts"], tried.cast(pa.int32())))
    return _set(files, "last_seen_ns", pc.if_else(tried, time.time_ns(), files["last_seen_ns"]))


def _set(files: pa.Table, name: str, column: pa.Array) -> pa.Table:
    index = files.schema.get_field_index(name)
    return files.set_column(index, files.schema.field(index), column)


def same_content(files: pa.Table, pieces: Iterable[pa.Table]) -> bool:
    """Whether a file table and the pieces of another, both sorted by path, agree in the columns CONTENT_COLUMNS."""
    names, start = list(CONTENT_COLUMNS), 0
    for piece in pieces:
        part = files.slice(start, piece.num_rows)
        if not part.select(names).combine_chunks().equals(piece.select(names).combine_chunks()):
            return False
        start += piece.num_rows
    return start == files.num_rows


@dataclass(frozen=True)
class KnownFailures:
    """What a version records about failed images, by digest.

    failures: the reason of each quarantined image. variant_failures: the reason of each usable image whose variants
    cannot be made. retried: the attempts of each failed image that is pending again, as `quarantine --retry` asks.
    A run tries these whatever older shards record about them.
    """

    failures: dict[bytes, str] = field(default_factory=dict)
    variant_failures: dict[bytes, str] = field(default_factory=dict)
    retried: dict[bytes, int] = field(default_factory=dict)

    def collect(self, pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the segments of a version's files and add the failures in each."""
        for files in pieces:
            self.add(files)
            yield files

    def add(self, files: pa.Table) -> None:
        """Add the failures in a table of files."""
        with_digest = files.filter(pc.is_valid(files["digest"]))
        with_reason = with_digest.filter(pc.is_valid(with_digest["reason"]))
        tried = pc.and_(pc.equal(with_digest["status"], PENDING), pc.greater(with_digest["attempts"], 0))
        self.failures.update(_by_digest(with_reason.filter(pc.equal(with_reason["status"], QUARANTINED)), "reason"))
        self.variant_failures.update(_by_digest(with_reason.filter(pc.equal(with_reason["status"], OK)), "reason"))
        self.retried.update(_by_digest(with_digest.filter(tried), "attempts"))


def _by_digest(files: pa.Table, name: str) -> dict:
    return dict(zip(files["digest"].to_pylist(), files[name].to_pylist(), strict=True))


def usable(files: pa.Table) -> pa.Table:
    """The files whose status is `ok`."""
    return files.filter(pc.equal(files["status"], OK))


def data_digest(files: pa.Table) -> str:
    """The identity of the training data: a sha256 of the sorted (digest, class, split) of the usable files, in hex."""
    table = usable(files).select(["split", "class", "digest"])
    table = table.sort_by([(name, "ascending") for name in table.column_names]).combine_chunks()
    labels = list(zip(table["split"].to_pylist(), table["class"].to_pylist(), strict=True))
    digests = np.frombuffer(b"".join(table["digest"].to_pylist()), "V32")
    hasher = hashlib.sha256()
    starts = [i for i, label in enumerate(labels) if i == 0 or label != labels[i - 1]]
    for start, stop in pairwise([*starts, len(labels)]):
        hasher.update(json.dumps([*labels[start], stop - start]).encode() + b"\n")
        hasher.update(digests[start:stop].tobytes())
    return hasher.hexdigest()


def counts(files: pa.Table) -> dict[str, int]:
    """Counts of images: `images` (all live ones), `ok`, `pending` and `quarantined`."""
    status = files["status"]
    by_status = {name: pc.sum(pc.equal(status, name)).as_py() or 0 for name in (OK, PENDING, QUARANTINED)}
    return {"images": files.num_rows, **by_status}


def class_counts(files: pa.Table) -> dict[tuple[str, str], int]:
    """Counts of usable images by (split, class), sorted."""
    groups = usable(files).group_by(["split", "class"]).aggregate([([], "count_all")]).to_pylist()
    return {
        (row["split"], row["class"]): row["count_all"] for row in sorted(groups, key=lambda g: (g["split"], g["class"]))
    }
