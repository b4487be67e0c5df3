"""From a scan to a listing: the sha256 of every image, read only where a stat says it may have changed."""

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.alignment import aligned
from storage.durable import replace
from storage.place import LARGEST_FILE, open_file
from storage.scan import Scan, is_sure

logger = logging.getLogger(__name__)

DIGEST = pa.binary(32)
THREADS = 8
SAVE_EVERY_SECONDS = 20.0
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


@dataclass(frozen=True)
class Listing:
    """Every image once: the columns of the scan, its digest, and a reason where it could not be read.

    files: SCAN_SCHEMA + digest (32 bytes, null where unreadable) + reason (`permission`, `read_error`,
        `too_many_pixels` for a file that no image is as large as, else null). A file that vanished since the scan is not in it.
    """

    scan: Scan
    files: pa.Table
    hashed: int


def list_images(scan: Scan, cache_folder: Path, rehash: bool = False) -> Listing:
    """Give every scanned image its digest, from the cache in `cache_folder` where its stat is unchanged.

    The cache is saved while a long listing goes on; where it cannot be written a warning is logged,
    since losing it costs only time. An object store has told the digests already. Raises InputError or LayoutChanged
    before a byte is read where no plan can be made of the scan.
    """
    scan.layout.check()
    if "digest" in scan.files.schema.names:
        return Listing(scan, scan.files.append_column("reason", pa.nulls(scan.files.num_rows, pa.string())), 0)
    path = cache_folder / f"digests-{hashlib.sha256(os.fsencode(scan.root)).hexdigest()[:16]}.parquet"
    cached = None if rehash else _open_cache(path)
    known, num_cached = _lookup(scan.files, cached, path)
    unknown = np.flatnonzero(~known.is_valid().to_numpy(zero_copy_only=False))
    hashed_ns = np.zeros(scan.files.num_rows, np.int64)
    digests: list[bytes | None] = []
    reasons: list[str | None] = []
    saved = time.monotonic()
    for index, at, digest, reason in _hash_files(scan, unknown):
        digests.append(digest)
        reasons.append(reason)
        hashed_ns[index] = at
        if time.monotonic() - saved > SAVE_EVERY_SECONDS:
            logger.info("read %d of %d new or changed files to know them by their bytes", len(digests), len(unknown))
            _write_cache(path, scan.files, _with(known, unknown, digests, DIGEST), hashed_ns)
            saved = time.monotonic()
    column = _with(known, unknown, digests, DIGEST)
    if len(unknown) or (cached is not None and num_cached != scan.files.num_rows):
        _write_cache(path, scan.files, column, hashed_ns)
    files = scan.files.append_column("digest", column)
    no_reasons = pa.nulls(scan.files.num_rows, pa.string())
    files = files.append_column("reason", _with(no_reasons, unknown, reasons, pa.string()))
    is_there = pc.fill_null(pc.not_equal(files["reason"], "vanished"), True)
    return Listing(scan, files.filter(is_there).combine_chunks(), len(unknown))


def _with(column: pa.Array, places: np.ndarray, values: list, kind: pa.DataType) -> pa.Array:
    """A column with values in the first of these places."""
    if not values:
        return column
    source = np.full(len(column), -1, np.int64)
    source[places[: len(values)]] = np.arange(len(values))
    found = pa.array(values, kind).take(pa.array(source, mask=source < 0))
    return pc.if_else(pa.array(source >= 0), found, column)


def _hash_files(scan: Scan, indices: np.ndarray) -> Iterator[tuple[int, int, bytes | None, str | None]]:
    root = os.fsencode(scan.root)
    paths = scan.files["path"].combine_chunks()

    def hash_one(index: int) -> tuple[int, int, bytes | None, str | None]:
        at = time.time_ns()
        try:
            with open_file(os.path.join(root, paths[index].as_py())) as file:
                if os.fstat(file.fileno()).st_size > LARGEST_FILE:
                    return index, at, None, "too_many_pixels"
                return index, at, hashlib.file_digest(file, "sha256").digest(), None
        except FileNotFoundError:
            return index, at, None, "vanished"
        except PermissionError:
            return index, at, None, "permission"
        except OSError:
            return index, at, None, "read_error"

    with ThreadPoolExecutor(THREADS) as threads:
        # In slices, so that a million waiting futures do not fill the memory.
        for start in range(0, len(indices), 10_000):
            yield from threads.map(hash_one, indices[start : start + 10_000].tolist())


def _lookup(files: pa.Table, cached: pq.ParquetFile | None, path: Path) -> tuple[pa.Array, int]:
    """Digests of the files whose path, size and times are those of the cache, else null; and the rows of the cache.

    A piece of the cache is in memory at a time. One that is damaged is worth as much as none.
    """
    if cached is None:
        return pa.nulls(files.num_rows, DIGEST), 0
    try:
        pieces = (pa.Table.from_batches([batch]) for batch in cached.iter_batches(CACHE_ROWS_AT_A_TIME))
        found = [_known(some, then) for some, then in aligned(files, pieces, CACHE_SCHEMA)]
    except (OSError, pa.ArrowException) as error:
        logger.warning("the digest cache %s is unreadable (%s): every image is read again", path, error)
        return pa.nulls(files.num_rows, DIGEST), 0
    return pa.concat_arrays([pa.nulls(0, DIGEST), *found]), cached.metadata.num_rows


def _known(files: pa.Table, cached: pa.Table) -> pa.Array:
    then = cached.take(pc.index_in(files["path"].combine_chunks(), cached["path"].combine_chunks()))
    is_same = pa.array(np.ones(files.num_rows, bool))  # typed also where a piece of the cache has no file left
    for name in ("size", "mtime_ns", "ctime_ns"):
        is_same = pc.and_(is_same, pc.fill_null(pc.equal(files[name], then[name]), False).combine_chunks())
    return pc.if_else(is_same, then["digest"].combine_chunks(), pa.scalar(None, DIGEST))


def _open_cache(path: Path) -> pq.ParquetFile | None:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        logger.warning("the digest cache %s is unreadable (%s): every image is read again", path, error)
        return None
    return file if file.schema_arrow.equals(CACHE_SCHEMA) else None


def _write_cache(path: Path, files: pa.Table, digests: pa.Array, hashed_ns: np.ndarray) -> None:
    """Save the digests that are sure to be noticed when they go stale; 0 in `hashed_ns` means from the cache."""
    table = files.select(CACHE_SCHEMA.names[:-1]).append_column("digest", digests)
    sure = pa.array((hashed_ns == 0) | is_sure(files, hashed_ns))
    table = table.filter(pc.and_(sure, pc.is_valid(table["digest"]))).cast(CACHE_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_dictionary=False, compression="zstd", write_page_checksum=True)
    try:
        replace(path, sink.getvalue().to_pybytes())
    except OSError as error:
        logger.warning("the digest cache %s cannot be written: %s", path, error.strerror)
