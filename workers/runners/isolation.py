"""When a child dies, its in-flight images are retried one by one; only those that kill it are lost. No Prefect here."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from storage.planning.chunks import pack
from storage.schemas import DIGEST
from storage.shards.view_ids import PLAIN
from storage.text import count
from workers.children.in_flight import Stage
from workers.children.watchdog import Limits
from workers.errors import WorkerDied
from workers.jobs.records import ChunkResult, ChunksJob
from workers.runners.base import Lease

logger = logging.getLogger(__name__)

# After this many deaths without a guilty image (somebody kills children), the job fails and its task run is retried.
UNEXPLAINED_DEATHS = 3
UNREAD = "read_error"


class Isolation:
    """Runs one job of chunks in a slot, and survives images that kill its child.

    A finished chunk is not repeated. After a death, the in-flight images of the interrupted chunk are retried one by
    one. An image that kills a fresh child is condemned: the shard names it like an image that cannot be decoded, and
    the chunk is extracted without it. If only its variants kill, its plain row is extracted. If no image kills alone,
    one of them may kill only in company, so each is inferred without others from then on.
    """

    def __init__(self, lease: Lease, job: ChunksJob, on_batch: Callable[[dict], None], limits: Limits):
        self._lease, self._job, self._on_batch, self._limits = lease, job, on_batch, limits
        self._results: list[ChunkResult] = []
        self._condemned: dict[str, str] = {}
        self._plain_only: dict[str, str] = {}
        self._cleared: set[bytes] = set()
        self._apart: set[bytes] = set()

    def run(self) -> list[ChunkResult]:
        """Extract all chunks and return their results, in order.

        Raises what `Lease.call` raises, but WorkerDied only if the deaths have no guilty image.
        """
        unexplained = 0
        while len(self._results) < self._job.count:
            try:
                self._call(self._job.KIND, self._rest(), self._hear)
            except WorkerDied as death:
                if not self._try_suspects(death):
                    unexplained += 1
                    if unexplained == UNEXPLAINED_DEATHS:
                        raise
        return self._results

    def _call(self, kind: str, job: ChunksJob, on_progress: Callable[[dict], None]):
        return self._lease.call(kind, job.record(), on_progress, self._limits)

    def _rest(self) -> ChunksJob:
        return replace(
            self._job.rest(len(self._results)),
            condemned=dict(self._condemned),
            plain_only=dict(self._plain_only),
            apart=tuple(digest.hex() for digest in sorted(self._apart)),
        )

    def _hear(self, record: dict) -> None:
        if "finished" in record:
            self._results.append(ChunkResult(**record["finished"]))
        else:
            self._on_batch(record)

    def _try_suspects(self, death: WorkerDied) -> int:
        """Retry in-flight images alone, unless they are cleared or condemned. Returns how many of them kill a child."""
        in_flight = self._lease.in_flight()
        suspects = [
            digest for digest in in_flight if digest not in self._cleared and digest.hex() not in self._condemned
        ]
        step = f"retrying {count(len(suspects), 'in-flight image')} individually" if suspects else "retrying the chunk"
        logger.warning("%s; %s", death, step)
        guilty, is_new = 0, True
        for digest in suspects:
            given_up = {key: code for key, code in self._plain_only.items() if key == digest.hex()}
            code = self._try_alone(digest, given_up)
            if code is not None and not is_new:
                code = self._try_alone(digest, given_up)  # the images before it may have damaged that child
            is_new = code is not None
            if code is None:
                self._cleared.add(digest)
                continue
            guilty += 1
            if code != UNREAD and not given_up and self._has_variants_and_plain(digest):
                plain_code = self._try_alone(digest, {digest.hex(): code})
                is_new = plain_code is not None
                if plain_code is None:
                    self._plain_only[digest.hex()] = code
                    continue
            self._condemned[digest.hex()] = code
        if not guilty:
            self._apart.update(in_flight)
        return guilty

    def _try_alone(self, digest: bytes, plain_only: Mapping[str, str] | None = None) -> str | None:
        """Extract one image alone. Returns the code of its fault if the child dies of it, None if the child survives.

        plain_only: leave its variants out. Raises WorkerDied if the child dies while the image is not in flight.
        """
        try:
            row, only = pack(self._row(digest)), dict(plain_only or {})
            job = replace(self._job, rows=row, alone=digest.hex(), plain_only=only)
            self._call(self._job.TRIAL, job, lambda _: None)
        except WorkerDied as death:
            stage: Stage | None = self._lease.in_flight().get(digest)
            if stage is None:
                raise
            # A failed read says nothing about the bytes, so the image stays pending.
            code = UNREAD if stage == "read" else death.code
            logger.warning("%s is skipped (%s): with this image alone, %s", self._path(digest), code, death)
            return code
        return None

    def _has_variants_and_plain(self, digest: bytes) -> bool:
        views = self._row(digest)["views"][0].as_py()
        return PLAIN in views and len(views) > 1

    def _path(self, digest: bytes) -> str:
        return ascii(os.fsdecode(self._row(digest)["path"][0].as_py()))

    def _row(self, digest: bytes) -> pa.Table:
        todo = self._job.todo
        return todo.slice(pc.index(todo["digest"], pa.scalar(digest, DIGEST)).as_py(), 1)
