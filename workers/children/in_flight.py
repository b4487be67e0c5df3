"""The in-flight images of a child, in memory shared with its parent. When the child dies, they are the suspects.

A child notes every image that it reads or decodes, and every batch that it infers. A note is a store into mapped
memory. It takes half a microsecond, where a line through a pipe takes ten, and it survives any death of the child.
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
STAGES: tuple[Stage, ...] = ("read", "decode")  # those that handle one image at a time

# The image that is read or decoded: start time, stage (0: none), digest. The batch: start time, number of images.
IMAGE = struct.Struct("=dB32s")
BATCH = struct.Struct("=dI")
IMAGE_AT, BATCH_AT, DIGESTS_AT = 0, 64, 128
DIGEST_BYTES = 32
LARGEST_BATCH = 1024  # vision/engines: the largest batch of any engine
SIZE = DIGESTS_AT + LARGEST_BATCH * DIGEST_BYTES
NONE = bytes(DIGEST_BYTES)


class InFlight:
    """The in-flight images of one child. Times come from the monotonic clock, which all processes share."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, SIZE)

    @classmethod
    def create(cls) -> "InFlight":
        """In-flight notes in a new anonymous file, which disappears when the last process closes it."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("in-flight")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, SIZE)
        made = cls(descriptor)
        weakref.finalize(made, os.close, descriptor)
        return made

    # Called in the child: vision.engines.extract.Tracker

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

    # Called in the parent

    def clear(self) -> None:
        """Forget all images, before a new job."""
        self.decoded()
        self.inferred()

    def suspects(self) -> dict[bytes, Stage]:
        """Digest → stage of the in-flight images. First comes the one being decoded, as the likeliest culprit."""
        found: dict[bytes, Stage] = {}
        _, stage, digest = IMAGE.unpack_from(self._map, IMAGE_AT)
        if stage:
            found[digest] = STAGES[stage - 1]
        _, count = BATCH.unpack_from(self._map, BATCH_AT)
        for start in range(DIGESTS_AT, DIGESTS_AT + count * DIGEST_BYTES, DIGEST_BYTES):
            found.setdefault(self._map[start : start + DIGEST_BYTES], "infer")
        return found

    def seconds(self) -> dict[Stage, float]:
        """How many seconds each busy stage has held its current images."""
        now, found = time.monotonic(), dict[Stage, float]()
        since, stage, _ = IMAGE.unpack_from(self._map, IMAGE_AT)
        if stage:
            found[STAGES[stage - 1]] = now - since
        since, count = BATCH.unpack_from(self._map, BATCH_AT)
        if count:
            found["infer"] = now - since
        return found
