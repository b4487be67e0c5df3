"""A store of given feature maps, without pictures and without a network."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from storage.layout import Store
from storage.manifest.versions import Version, commit
from storage.schemas import FILES_SCHEMA, ROWS_SCHEMA
from storage.shards.shard import write_shard

File = tuple[bytes, str, str, bytes]  # path, class, split, digest


def commit_maps(
    store: Store,
    parent: Version | None,
    files: Sequence[File],
    maps: Mapping[bytes, np.ndarray],
    rows_a_shard: int = 256,
) -> Version:
    """Commit a version of `files`, each usable. maps: digest → features; those that the parent has are not written again."""
    rows = parent.read_rows(store).to_pylist() if parent else []
    shards = dict(parent.shards) if parent else {}
    known = {row["digest"] for row in rows}
    new = [digest for digest in maps if digest not in known]
    for start in range(0, len(new), rows_a_shard):
        digests = new[start : start + rows_a_shard]
        ref = write_shard(store, digests, np.stack([maps[digest] for digest in digests]), {}, {})
        shards[ref.name] = ref
        rows += [{"digest": digest, "view": 0, "shard": ref.name, "row": row} for row, digest in enumerate(digests)]
    times = dict.fromkeys(("size", "mtime_ns", "ctime_ns", "attempts", "first_seen_ns", "last_seen_ns"), 0)
    listed = [
        {"path": path, "class": name, "split": split, "digest": digest, "status": "ok", **times}
        for path, name, split, digest in sorted(files)
    ]
    rows.sort(key=lambda row: (row["digest"], row["view"]))
    tables = pa.Table.from_pylist(listed, FILES_SCHEMA), pa.Table.from_pylist(rows, ROWS_SCHEMA)
    return commit(store, parent, *tables, shards)
