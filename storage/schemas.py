"""Arrow schemas of the tables that the folders of this room exchange."""

import pyarrow as pa

DIGEST = pa.binary(32)


FILES_SCHEMA = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),
        pa.field("digest", DIGEST),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("ctime_ns", pa.int64(), nullable=False),
        pa.field("class", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("first_seen_ns", pa.int64(), nullable=False),
        pa.field("last_seen_ns", pa.int64(), nullable=False),
    ]
)


# A file that a person excluded (class is null) or relabelled. listed, split: what folders or a table say of it.
CORRECTIONS_SCHEMA = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),
        pa.field("digest", DIGEST),
        pa.field("listed", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("class", pa.string()),
    ]
)


TODO_SCHEMA = pa.schema(
    [
        ("digest", DIGEST),
        ("path", pa.binary()),
        ("split", pa.string()),
        ("views", pa.list_(pa.uint16())),
        ("twins", pa.list_(pa.binary())),
    ]
)


ROWS_SCHEMA = pa.schema(
    [
        pa.field("digest", DIGEST, nullable=False),
        pa.field("view", pa.uint16(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.uint16(), nullable=False),
    ]
)
