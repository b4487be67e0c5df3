"""Read features from a store for your own training, as numpy arrays, without Prefect and TensorFlow.

from storage.reading import open_split
for features, labels in open_split("photos-store", "train").epochs(): ...
"""

from pathlib import Path

from storage.backend.paths import place
from storage.classes import index_order, names_in, only
from storage.errors import InputError
from storage.manifest.select import chosen_version, one_space
from storage.reading.samples import sample_table
from storage.reading.stream import FeatureStream


def open_split(
    store: str | Path,
    split: str = "train",
    batch_size: int = 128,
    seed: int | None = 0,
    *,
    memory_mb: float = 256,
    classes: tuple[str, ...] | None = None,
    space: str = "",
    version: int | None = None,
    steps: int | None = None,
    with_replacement: bool = False,
) -> FeatureStream:
    """Open a stream of the usable images of a split of one version.

    seed: shuffles the batches; None keeps the order of the table. classes: some or all classes, in the index order of
    the labels; by default all, sorted by name. space: a prefix of the fingerprint, needed if the store has several
    feature spaces. version: by default the newest; it must exist as long as you read it (`gc --keep`). For the other
    arguments and the batches see storage/reading/stream.py.
    Raises InputError if the store, space, version or a class does not exist, or the split has no usable image.
    """
    where = one_space(place(store), space)
    chosen = chosen_version(where, version)
    order = index_order(classes or names_in(chosen.classes), chosen.classes)
    if not only(chosen.classes, order).get(split):
        raise InputError(f"version {chosen.number} has no usable image in the split {split!r}")
    table = sample_table(where, chosen, split, order)
    return FeatureStream(where, table, batch_size, seed, memory_mb, steps, with_replacement)
