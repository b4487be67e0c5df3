"""Which shards exist in a store, and which of them no version names."""

from collections.abc import Mapping

from storage.backend.paths import sizes
from storage.layout import Store
from storage.shards.shard import ShardRef


def is_present(store: Store, ref: ShardRef) -> bool:
    """The shard is there with its size."""
    try:
        return store.shard(ref.name).stat().st_size == ref.size_bytes
    except OSError:
        return False


def present_shards(store: Store, refs: Mapping[str, ShardRef]) -> dict[str, ShardRef]:
    """Those shards that are there with their size, by one listing: the check that every run makes."""
    found = sizes(store.shards) if refs else {}
    return {name: ref for name, ref in refs.items() if found.get(name) == ref.size_bytes}
