"""The shards of a stream, each opened on first use."""

from collections import OrderedDict
from threading import Lock

import numpy as np

from storage.errors import StoreDamaged
from storage.layout import Store
from storage.shards.shard import FeatureType, Shard, ShardRef

MOST_FILES = 64


class OpenShards:
    """Row groups of shards; several threads may ask.

    A shard that keeps its file open is closed when MOST_FILES others were used after it. One that keeps no file stays
    open, so that npz shards, which are read whole when they are opened, are opened once.
    """

    def __init__(self, store: Store, refs: tuple[ShardRef, ...]):
        self._store, self._refs = store, refs
        self._shards: OrderedDict[int, Shard] = OrderedDict()  # the one used last comes last
        self._locks = [Lock() for _ in refs]
        self._lock = Lock()

    def kind(self, index: int) -> FeatureType:
        with self._locks[index]:
            return self._opened(index).kind

    def read_group(self, index: int, group: int, kind: FeatureType) -> np.ndarray:
        """A row group as it lies in a shard. Raises StoreDamaged where the shard is, or holds features of another kind."""
        with self._locks[index]:  # one thread opens a shard, and a Parquet file is read by one thread at a time
            shard = self._opened(index)
            if shard.kind != kind:
                name, way_out = shard.ref.name, self._store.way_out
                raise StoreDamaged(f"shard {name} holds {shard.kind}, the others {kind}; {way_out}")
            return shard.read_group(group)

    def _opened(self, index: int) -> Shard:
        with self._lock:
            if index in self._shards:
                self._shards.move_to_end(index)
                return self._shards[index]
        shard = Shard(self._store, self._refs[index])
        with self._lock:
            self._shards[index] = shard
            files = [number for number, other in self._shards.items() if other.keeps_file]
            for number in files[:-MOST_FILES]:
                del self._shards[number]
        return shard
