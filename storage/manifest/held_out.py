"""Find the images that a head was not trained on, as far as the store knows."""

from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import StorageError
from storage.layout import Store
from storage.manifest.file_table import usable
from storage.manifest.space import other_spaces
from storage.manifest.versions import Version, latest_version, read_version, version_numbers


def version_with(store: Store, number: int, data_digest: str) -> tuple[Store, Version] | None:
    """A version with this data digest, and its feature space; None if all such versions are gone.

    Prefers the version `number`, then the newest of the same space, then those of other spaces.
    """
    for space, candidates in [(store, [number, *_newest_first(store)]), *_of_others(store)]:
        for candidate in candidates:
            with suppress(StorageError, OSError):
                version = read_version(space, candidate)
                if version.data_digest == data_digest:
                    return space, version
    return None


def newest_version(store: Store) -> Version | None:
    """The newest version of a feature space; None if there is none or it cannot be read."""
    with suppress(StorageError, OSError):
        return latest_version(store)
    return None


def _newest_first(store: Store) -> list[int]:
    return version_numbers(store)[::-1]


def _of_others(store: Store) -> Iterator[tuple[Store, list[int]]]:
    return ((other, _newest_first(other)) for other in other_spaces(store))


def trained_on(store: Store, version: Version, digests: pa.Array) -> pa.Array:
    """Mask of the digests that a usable image of the version's training split has.

    Memory holds one segment at a time.
    """
    return _among(digests, (_digests(piece, pc.equal(piece["split"], "train")) for piece in _usable(store, version)))


def held_out_since(store: Store, version: Version, time_ns: int, digests: pa.Array) -> pa.Array:
    """Mask of the digests of usable images that are outside the training split, and already were at `time_ns`.

    An image's `last_seen_ns` is the time at which its present bytes, class and split were first seen together.
    """
    return _among(
        digests,
        (
            _digests(
                piece, pc.and_(pc.not_equal(piece["split"], "train"), pc.less_equal(piece["last_seen_ns"], time_ns))
            )
            for piece in _usable(store, version)
        ),
    )


def _usable(store: Store, version: Version) -> Iterator[pa.Table]:
    return (usable(piece) for piece in version.file_segments(store))


def _digests(files: pa.Table, mask: pa.ChunkedArray) -> pa.Array:
    return files.filter(mask)["digest"].combine_chunks()


def _among(digests: pa.Array, pieces: Iterator[pa.Array]) -> pa.Array:
    found = pa.repeat(False, len(digests))
    for piece in pieces:
        found = pc.or_(found, pc.is_in(digests, piece))
    return found
