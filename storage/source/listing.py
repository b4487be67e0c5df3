"""Turn a scan into a listing: add each image's sha256. Reads only files that are new or have another size or time."""

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

from storage.backend.bounded_read import LARGEST_FILE, open_file
from storage.schemas import DIGEST
from storage.source.digest_cache import lookup, open_cache, write_cache
from storage.source.scan_table import Scan
from storage.text import count

logger = logging.getLogger(__name__)

THREADS = 8
SAVE_EVERY_SECONDS = 20.0


@dataclass(frozen=True)
class Listing:
    """Each image once, with the columns of the scan, its digest, and a reason if it could not be read.

    files: SCAN_SCHEMA + digest (32 bytes, null if unreadable) + reason (`permission`, `read_error`, or
        `too_many_pixels` for a file larger than any image; else null). Files that vanished since the scan are left out.
    hashed: the number of files that were not in the cache.
    """

    scan: Scan
    files: pa.Table
    hashed: int


def list_images(scan: Scan, cache_folder: Path, rehash: bool = False) -> Listing:
    """Add the digest of each scanned image, from the cache in `cache_folder` if size and times are unchanged.

    rehash: ignore the cache. A long listing saves the cache from time to time. A cache that cannot be written only logs
    a warning, because its loss costs only time. For an object store the scan has the digests already.
    Raises InputError or LayoutChanged, before it reads a byte, if no plan can use the scan's layout.
    """
    scan.layout.check()
    if "digest" in scan.files.schema.names:
        return Listing(scan, scan.files.append_column("reason", pa.nulls(scan.files.num_rows, pa.string())), 0)
    path = cache_folder / f"digests-{hashlib.sha256(os.fsencode(scan.root)).hexdigest()[:16]}.parquet"
    cached = None if rehash else open_cache(path)
    known, num_cached = lookup(scan.files, cached, path)
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
            logger.info("hashed %d of %s", len(digests), count(len(unknown), "new or changed file"))
            write_cache(path, scan.files, _with(known, unknown, digests, DIGEST), hashed_ns)
            saved = time.monotonic()
    column = _with(known, unknown, digests, DIGEST)
    if len(unknown) or (cached is not None and num_cached != scan.files.num_rows):
        write_cache(path, scan.files, column, hashed_ns)
    files = scan.files.append_column("digest", column)
    no_reasons = pa.nulls(scan.files.num_rows, pa.string())
    files = files.append_column("reason", _with(no_reasons, unknown, reasons, pa.string()))
    is_there = pc.fill_null(pc.not_equal(files["reason"], "vanished"), True)
    return Listing(scan, files.filter(is_there).combine_chunks(), len(unknown))


def _with(column: pa.Array, places: np.ndarray, values: list, kind: pa.DataType) -> pa.Array:
    """Put values into a column: values[i] at row places[i]. There may be fewer values than places."""
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
        # Slices bound the number of waiting futures, and so the memory.
        for start in range(0, len(indices), 10_000):
            yield from threads.map(hash_one, indices[start : start + 10_000].tolist())
