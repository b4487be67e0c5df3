"""Check which of the shards that a version names exist in the store."""

from collections.abc import Mapping

from storage.backend.paths import sizes
from storage.layout import Store
from storage.shards.shard import ShardRef


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
