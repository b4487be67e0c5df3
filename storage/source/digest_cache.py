"""The digest cache: maps a file's path, size and times to the digest of its bytes."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.backend.atomic import replace
from storage.merge_join import merge_join
from storage.schemas import DIGEST
from storage.source.scan_table import is_sure

logger = logging.getLogger(__name__)


CACHE_ROWS_AT_A_TIME = 65_536


CACHE_SCHEMA = pa.schema(
    [
        pa.field("path", pa.binary()),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("ctime_ns", pa.int64()),
        pa.field("digest", DIGEST),
    ]
)


def lookup(files: pa.Table, cached: pq.ParquetFile | None, path: Path) -> tuple[pa.Array, int]:
    """Look up the digest of each file. Returns the digests and the number of rows in the cache.

    A digest is null unless path, size and times equal those in the cache. Memory holds one piece of the cache at a
    time. A damaged cache counts as empty, with a warning.
    """
    if cached is None:
        return pa.nulls(files.num_rows, DIGEST), 0
    try:
        pieces = (pa.Table.from_batches([batch]) for batch in cached.iter_batches(CACHE_ROWS_AT_A_TIME))
        found = [_known(part, then) for part, then in merge_join(files, pieces, CACHE_SCHEMA)]
    except (OSError, pa.ArrowException) as error:
        logger.warning("cannot read the digest cache %s (%s): reading every image again", path, error)
        return pa.nulls(files.num_rows, DIGEST), 0
    return pa.concat_arrays([pa.nulls(0, DIGEST), *found]), cached.metadata.num_rows


def _known(files: pa.Table, cached: pa.Table) -> pa.Array:
    then = cached.take(pc.index_in(files["path"].combine_chunks(), cached["path"].combine_chunks()))
    is_same = pa.array(np.ones(files.num_rows, bool))  # typed even if a piece of the cache has no file left
    for name in ("size", "mtime_ns", "ctime_ns"):
        is_same = pc.and_(is_same, pc.fill_null(pc.equal(files[name], then[name]), False).combine_chunks())
    return pc.if_else(is_same, then["digest"].combine_chunks(), pa.scalar(None, DIGEST))


def open_cache(path: Path) -> pq.ParquetFile | None:
    """Open the digest cache; None if it is missing, damaged (with a warning) or of another schema."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        logger.warning("cannot read the digest cache %s (%s): reading every image again", path, error)
        return None
    return file if file.schema_arrow.equals(CACHE_SCHEMA) else None


def write_cache(path: Path, files: pa.Table, digests: pa.Array, hashed_ns: np.ndarray) -> None:
    """Save the digests whose staleness a later run surely detects (`is_sure`).

    hashed_ns: (n,) the time at which each file was read; 0 for a digest from the cache. A write error only logs a
    warning.
    """
    table = files.select(CACHE_SCHEMA.names[:-1]).append_column("digest", digests)
    sure = pa.array((hashed_ns == 0) | is_sure(files, hashed_ns))
    table = table.filter(pc.and_(sure, pc.is_valid(table["digest"]))).cast(CACHE_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_dictionary=False, compression="zstd", write_page_checksum=True)
    try:
        replace(path, sink.getvalue().to_pybytes())
    except OSError as error:
        logger.warning("cannot write the digest cache %s: %s", path, error.strerror)
