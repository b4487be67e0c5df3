"""The pooled vectors of a version: the global average and the global maximum of each feature map, memory-mapped.

from storage.reading.pooled import pooled_files, pooled_vectors
vectors = pooled_vectors(store, version)        # computed once, then read from a file in the cache
files = pooled_files(store, version, vectors)   # path, digest, class, split, row: the usable files
images = vectors.average[files["row"].to_numpy()]

The file may be deleted at the cost of time. `gc` removes it with the last version that has its rows.
"""

import logging
import os
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa

from storage.layout import Store, machine_cache
from storage.manifest.file_table import usable
from storage.manifest.versions import Version
from storage.reading.pooled_file import STATISTICS, PooledVectors, open_pooled
from storage.reading.pooling import compute, digest_bytes
from storage.records import sha256

logger = logging.getLogger(__name__)


def pooled_vectors(store: Store, version: Version, check: Collection[str] = STATISTICS) -> PooledVectors:
    """The vectors of every image that has features in the version, in order of digest. Computes them if no file has them.

    A map (height, width, channels) gives two vectors of its channels, computed in float32. If the space pools already,
    `average` and `maximum` are both the stored vector. Images that no file of the version uses any more are included;
    `pooled_files` leaves them out. check: the arrays that you read, whose bytes are verified first.
    Memory holds the table of rows and a few row groups. Raises StoreDamaged if features are missing or damaged, and
    OSError (disk full).
    """
    for path in _places(store, version):
        found = _opened(path, check)
        if found is not None:
            return found
    path = next((path for path in _places(store, version) if _is_writable(path.parent)), _places(store, version)[0])
    compute(store, version, path, lambda older: _known(store, older))
    return open_pooled(path, check)


def is_pooled(store: Store, version: Version) -> bool:
    """Whether a file with the vectors of the version exists, so that `pooled_vectors` has nothing to compute."""
    return any(path.exists() for path in _places(store, version))


def pooled_files(store: Store, version: Version, vectors: PooledVectors) -> pa.Table:
    """The usable files of a version in order of path: `path`, `digest`, `class`, `split` and `row`, that of its vectors.

    row: int64. Files of equal bytes share a row.
    """
    files = usable(version.read_files(store)).select(["path", "digest", "class", "split"])
    return files.append_column("row", pa.array(vectors.find(digest_bytes(files["digest"])), pa.int64()))


def _known(store: Store, version: Version) -> PooledVectors | None:
    return next(filter(None, (_opened(path, STATISTICS) for path in _places(store, version))), None)


def _places(store: Store, version: Version) -> list[Path]:
    """Where the file may lie: in the cache of the store, or, if nobody may write there, in that of this machine."""
    of_machine = machine_cache() / sha256(str(store.root).encode())[:16]
    roots = dict.fromkeys((store.cache, of_machine))
    return [root / "pooled" / store.fingerprint / version.pooled_name for root in roots]


def _opened(path: Path, check: Collection[str]) -> PooledVectors | None:
    """The vectors in a file; None if it is missing or damaged."""
    try:
        return open_pooled(path, check)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.warning("%s is damaged (%s): its vectors are computed again", path, error)
        return None


def _is_writable(folder: Path) -> bool:
    there: Path = next(above for above in (folder, *folder.parents) if above.exists())
    return os.access(there, os.W_OK | os.X_OK)
