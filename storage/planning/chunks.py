"""Cut work into chunks. Each becomes one shard."""

import base64

import pyarrow as pa

from storage.schemas import TODO_SCHEMA

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


def pack(todo: pa.Table) -> str:
    """Rows of TODO_SCHEMA as text for a JSON record: an Arrow stream in base64, since paths are any bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TODO_SCHEMA) as writer:
        writer.write_table(todo)
    return base64.b64encode(sink.getvalue()).decode()


def unpack(packed: str) -> pa.Table:
    """The rows that `pack` was given. Raises ValueError if the text is something else."""
    with pa.ipc.open_stream(base64.b64decode(packed, validate=True)) as reader:
        if reader.schema != TODO_SCHEMA:
            raise ValueError(f"the rows of a job have the schema {reader.schema}")
        return reader.read_all()
