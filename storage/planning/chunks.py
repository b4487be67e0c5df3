"""Cut work into chunks. Each becomes one shard."""

import pyarrow as pa

# Engines infer 16, 24 or 48 images of 224 pixels at a time (vision/engines). A multiple of all three leaves no batch half
# empty but the last, and the cut, and so the bytes of the shards, does not depend on the engine or on the machine.
IMAGES_A_BATCH = 48
# Enough chunks for sixteen workers; more would only make smaller shards.
MIN_CHUNKS = 16
MAX_IMAGES = 256


def automatic_size(num_images: int) -> int:
    """Images a chunk, by their number alone: whole batches, at least MIN_CHUNKS chunks where each has a batch."""
    batches = num_images // (MIN_CHUNKS * IMAGES_A_BATCH)
    return IMAGES_A_BATCH * min(max(batches, 1), MAX_IMAGES // IMAGES_A_BATCH)


def chunk(todo: pa.Table, index: int, chunk_size: int) -> pa.Table:
    """The rows of `todo` that make the chunk `index`; every row is in exactly one chunk."""
    return todo.slice(index * chunk_size, chunk_size)
