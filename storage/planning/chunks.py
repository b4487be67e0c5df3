"""Cut work into chunks. One chunk becomes one shard."""

import base64
from dataclasses import dataclass

import pyarrow as pa

from storage.schemas import TODO_SCHEMA

# Engines infer batches of 16, 24 or 48 images of 224 pixels (vision/engines). With a multiple of all three only the
# last batch is partial. Neither the cut nor the bytes of the shards depend on the engine or the machine.
IMAGES_A_BATCH = 48
# Enough chunks for sixteen workers. More would only make the shards smaller.
MIN_CHUNKS = 16
MAX_IMAGES = 256
# The last chunks are small, so that no child waits long for another at the end: a batch of TensorFlow, less than one of MNN.
# Up to three equally fast children wait no longer than that, and more children no longer than a full chunk. The small ones
# hold the images of two to three full chunks, because every child should be among them before the last one is taken.
IMAGES_A_LAST_CHUNK = 16
CHUNKS_CUT_SMALL = 2


def automatic_size(num_images: int) -> int:
    """Images per chunk but for the last ones, a function of the number of images only.

    A chunk has whole batches and at most MAX_IMAGES. There are at least MIN_CHUNKS chunks if each can have a batch.
    """
    batches = num_images // (MIN_CHUNKS * IMAGES_A_BATCH)
    return IMAGES_A_BATCH * min(max(batches, 1), MAX_IMAGES // IMAGES_A_BATCH)


@dataclass(frozen=True)
class Cut:
    """Where a table is cut: `full_chunks` chunks of `chunk_size` images, and then small ones. None: every chunk is full."""

    chunk_size: int
    full_chunks: int | None = None

    def start(self, index: int) -> int:
        """The first row of a chunk. Every row is in exactly one chunk."""
        full = index if self.full_chunks is None else min(index, self.full_chunks)
        return full * self.chunk_size + (index - full) * IMAGES_A_LAST_CHUNK

    def num_chunks(self, num_images: int) -> int:
        """The number of chunks of a table with that number of images."""
        if self.full_chunks is None or num_images <= self.full_chunks * self.chunk_size:
            return -(-num_images // self.chunk_size)
        return self.full_chunks - (self.full_chunks * self.chunk_size - num_images) // IMAGES_A_LAST_CHUNK

    def rows(self, table: pa.Table, start: int, count: int, first: int = 0) -> pa.Table:
        """The rows of `count` chunks from chunk `start` on, in a table that begins with chunk `first`."""
        return table.slice(self.start(start) - self.start(first), self.start(start + count) - self.start(start))


def cut(num_images: int, size: int | None = None) -> Cut:
    """Choose where to cut: a function of the number of images only.

    size: images per chunk. If given, every chunk has this size; otherwise the last chunks are small.
    """
    if size is not None:
        return Cut(size)
    size = automatic_size(num_images)
    return Cut(size, max(0, num_images // size - CHUNKS_CUT_SMALL))


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
