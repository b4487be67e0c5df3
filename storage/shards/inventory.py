"""Check which of the shards that a version names exist in the store."""

import logging
from collections.abc import Mapping

from storage.backend.paths import sizes
from storage.layout import SHARD_NAME, Store
from storage.records import file_sha256
from storage.shards.shard import DAMAGES, ROWS, ShardRef, checksum_of_footer

logger = logging.getLogger(__name__)


def is_present(store: Store, ref: ShardRef) -> bool:
    """Whether the shard's file exists and has its recorded size."""
    try:
        return store.shard(ref.name).stat().st_size == ref.size_bytes
    except OSError:
        return False


def present_shards(store: Store, refs: Mapping[str, ShardRef]) -> dict[str, ShardRef]:
    """The shards whose files exist with their recorded size. Uses one listing, because every run makes this check."""
    found = sizes(store.shards) if refs else {}
    return {name: ref for name, ref in refs.items() if found.get(name) == ref.size_bytes}


def unlisted_shards(store: Store, committed: Mapping[str, ShardRef]) -> dict[str, int]:
    """Names and sizes of the shards in the store that are not among those committed."""
    return {n: size for n, size in sizes(store.shards).items() if n not in committed and SHARD_NAME.fullmatch(n)}


def footer_ref(store: Store, name: str, size_bytes: int) -> ShardRef | None:
    """The record of a shard as its footer gives it, unverified; None if the file is no readable shard."""
    path, format = store.shard(name), name.partition(".")[2]
    try:
        with path.open("rb") as file:
            footer_checksum = checksum_of_footer(file, format)
        return ShardRef(name, size_bytes, ROWS[format](path).num_rows, footer_checksum)
    except FileNotFoundError:
        return None  # it has the name of a shard, and is in another folder
    except DAMAGES as error:
        logger.warning("ignored %s: %s", path, error)
        return None


def is_intact(store: Store, ref: ShardRef) -> bool:
    """Whether the bytes of a shard, read piece by piece, have the sha256 of its name. If not, a warning says so."""
    if f"{file_sha256(store.shard(ref.name))}{store.shard(ref.name).suffix}" == ref.name:
        return True
    logger.warning("ignored %s: its sha256 does not match its name", store.shard(ref.name))
    return False
