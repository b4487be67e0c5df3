"""Cut work into chunks. One chunk becomes one shard."""

import base64

import pyarrow as pa

from storage.schemas import TODO_SCHEMA

# Engines infer batches of 16, 24 or 48 images of 224 pixels (vision/engines). With a multiple of all three only the
# last batch is partial. Neither the cut nor the bytes of the shards depend on the engine or the machine.
IMAGES_A_BATCH = 48
# Enough chunks for sixteen workers. More would only make the shards smaller.
MIN_CHUNKS = 16
MAX_IMAGES = 256


def automatic_size(num_images: int) -> int:
    """Images per chunk, a function of the number of images only.

    A chunk has whole batches and at most MAX_IMAGES. There are at least MIN_CHUNKS chunks if each can have a batch.
    """
    batches = num_images // (MIN_CHUNKS * IMAGES_A_BATCH)
    return IMAGES_A_BATCH * min(max(batches, 1), MAX_IMAGES // IMAGES_A_BATCH)


def chunk(todo: pa.Table, index: int, chunk_size: int) -> pa.Table:
    """The rows of `todo` in the chunk `index`. Every row is in exactly one chunk."""
    return todo.slice(index * chunk_size, chunk_size)


def pack(todo: pa.Table) -> str:
    """Encode rows of TODO_SCHEMA as text for JSON: an Arrow stream in base64, because paths may be any bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TODO_SCHEMA) as writer:
        writer.write_table(todo)
    return base64.b64encode(sink.getvalue()).decode()


def unpack(packed: str) -> pa.Table:
    """Decode the rows that `pack` encoded. Raises ValueError if the text is anything else."""
    with pa.ipc.open_stream(base64.b64decode(packed, validate=True)) as reader:
        if reader.schema != TODO_SCHEMA:
            raise ValueError(f"unexpected schema of the rows of a job: {reader.schema}")
        return reader.read_all()
