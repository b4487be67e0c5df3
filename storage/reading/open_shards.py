"""Open the shards of a stream on first use."""

from collections import OrderedDict
from threading import Lock

import numpy as np

from storage.errors import StoreDamaged
from storage.layout import Store
from storage.shards.shard import FeatureType, Shard, ShardRef

MOST_FILES = 64


class OpenShards:
    """A thread-safe cache of open shards.

    At most MOST_FILES shards keep a file open; the least recently used one is closed first. Npz shards keep no file
    open. They stay in the cache, because opening one reads it whole.
    """

    def __init__(self, store: Store, refs: tuple[ShardRef, ...]):
        self._store, self._refs = store, refs
        self._shards: OrderedDict[int, Shard] = OrderedDict()  # the most recently used comes last
        self._locks = [Lock() for _ in refs]
        self._lock = Lock()

    def kind(self, index: int) -> FeatureType:
        """The type of the features in a shard. Raises StoreDamaged if it cannot be opened."""
        with self._locks[index]:
            return self._opened(index).kind

    def read_group(self, index: int, group: int, kind: FeatureType) -> np.ndarray:
        """The features of a row group: (rows, *kind.shape) in the stored dtype.

        Raises StoreDamaged if the shard is damaged or holds features of another kind.
        """
        with self._locks[index]:  # only one thread may open a shard or read a Parquet file at a time
            shard = self._opened(index)
            if shard.kind != kind:
                name, way_out = shard.ref.name, self._store.way_out
                raise StoreDamaged(f"shard {name} has {shard.kind}, but the others have {kind}; {way_out}")
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
