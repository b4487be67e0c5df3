"""What a child has in hand, in memory that it shares with its parent: when it dies, this says which images to suspect.

A child notes every image that it reads and decodes, and every batch that it infers. A note is a store into mapped
memory, half a microsecond where a line through a pipe takes ten, and outlives the child however that ends.
"""

import mmap
import os
import struct
import tempfile
import time
import weakref
from collections.abc import Sequence
from typing import Literal

Stage = Literal["read", "decode", "infer"]
STAGES: tuple[Stage, ...] = ("read", "decode")  # of one image at a time

# The image that is read or decoded: since when, in which stage (0: none), which. The batch: since when, how many.
IMAGE = struct.Struct("=dB32s")
BATCH = struct.Struct("=dI")
IMAGE_AT, BATCH_AT, DIGESTS_AT = 0, 64, 128
DIGEST_BYTES = 32
LARGEST_BATCH = 1024  # vision/engines: the most that any engine takes at a time
SIZE = DIGESTS_AT + LARGEST_BATCH * DIGEST_BYTES
NONE = bytes(DIGEST_BYTES)


class InHand:
    """The notes of a worker's child. Times are of the monotonic clock, which all processes share."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, SIZE)

    @classmethod
    def create(cls) -> "InHand":
        """In a file without a name, which goes with the last process that has it open."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("in-hand")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, SIZE)
        made = cls(descriptor)
        weakref.finalize(made, os.close, descriptor)
        return made

    # What the child notes: vision.engines.extract.Hands

    def reading(self, key: bytes) -> None:
        IMAGE.pack_into(self._map, IMAGE_AT, time.monotonic(), 1, key)

    def decoding(self, key: bytes) -> None:
        IMAGE.pack_into(self._map, IMAGE_AT, time.monotonic(), 2, key)

    def decoded(self) -> None:
        IMAGE.pack_into(self._map, IMAGE_AT, 0.0, 0, NONE)

    def inferring(self, keys: Sequence[bytes]) -> None:
        digests = b"".join(keys)[: SIZE - DIGESTS_AT]
        self._map[DIGESTS_AT : DIGESTS_AT + len(digests)] = digests
        BATCH.pack_into(self._map, BATCH_AT, time.monotonic(), len(digests) // DIGEST_BYTES)

    def inferred(self) -> None:
        BATCH.pack_into(self._map, BATCH_AT, 0.0, 0)

    # What the parent reads

    def clear(self) -> None:
        self.decoded()
        self.inferred()

    def suspects(self) -> dict[bytes, Stage]:
        """The images in hand and what is done with them; first the one that is decoded, which is the likeliest culprit."""
        found: dict[bytes, Stage] = {}
        _, stage, digest = IMAGE.unpack_from(self._map, IMAGE_AT)
        if stage:
            found[digest] = STAGES[stage - 1]
        _, count = BATCH.unpack_from(self._map, BATCH_AT)
        for start in range(DIGESTS_AT, DIGESTS_AT + count * DIGEST_BYTES, DIGEST_BYTES):
            found.setdefault(self._map[start : start + DIGEST_BYTES], "infer")
        return found

    def seconds(self) -> dict[Stage, float]:
        """For how long each stage has had what it has."""
        now, found = time.monotonic(), dict[Stage, float]()
        since, stage, _ = IMAGE.unpack_from(self._map, IMAGE_AT)
        if stage:
            found[STAGES[stage - 1]] = now - since
        since, count = BATCH.unpack_from(self._map, BATCH_AT)
        if count:
            found["infer"] = now - since
        return found
