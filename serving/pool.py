"""The children of one head. An image that kills its child costs only its own answer."""

import asyncio
import base64
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.batcher import Answer, Upload
from storage.text import count
from workers.children.watchdog import STAGE_SECONDS, Limits
from workers.devices import Slot, memory_mb_a_child
from workers.errors import PoolClosed, WorkerDied
from workers.jobs.thumbnails import ThumbnailsJob
from workers.jobs.uploads import UploadsJob
from workers.runners.base import Lease, RunnerName
from workers.runners.running import RUNNERS

logger = logging.getLogger(__name__)

KEEP_SECONDS = 10.0  # an idle child leaves after 30 s (workers/children/child.py), and its successor loads for seconds
SILENCE_SECONDS = 600.0  # the first load on a machine also measures the engine
DECODE_SECONDS, INFER_SECONDS = 30.0, 120.0  # somebody waits for the answer, so less than in an extraction


class Pool:
    """One child per slot, each with the same head, loaded and warm.

    store: the feature space of the head. engine: its name. batch: images that it computes at a time. deaths: how many children died so far.
    """

    def __init__(self, job: UploadsJob, slots: tuple[Slot, ...], logs: Path, runner: RunnerName = "local"):
        self._job, self.store = job, job.space.store
        self._runner = RUNNERS[runner](slots, logs)
        self._limits = Limits(
            SILENCE_SECONDS,
            memory_mb_a_child(len(slots)),
            {**STAGE_SECONDS, "decode": DECODE_SECONDS, "infer": INFER_SECONDS},
        )
        self.slots = len(self._runner.leases)
        self._threads = ThreadPoolExecutor(self.slots + 1, "slot")  # one more, so that no batch waits for `_keep`
        self._keeper: asyncio.Task[None] | None = None
        self.deaths = 0
        self.engine = ""
        self.batch = 1

    async def start(self) -> None:
        """Load the head in every child: first in one, so that the others find its facts about the engine.

        Raises what the load raises.
        """
        found = await self._in_thread(self._load)
        self.engine, self.batch = found["engine"], found["batch"]
        await asyncio.gather(*(self._in_thread(self._load) for _ in range(1, self.slots)))
        self._keeper = asyncio.create_task(self._keep())

    async def answers(self, uploads: Sequence[Upload]) -> list[Answer]:
        """The answers to images, computed in a free slot. Raises what `Lease.call` raises, but WorkerDied only without a
        guilty image."""
        return await self._in_thread(self._answers_in_slot, list(uploads))

    async def thumbnails(self, files: Sequence[tuple[bytes, bytes]]) -> dict[tuple[bytes, bytes], str]:
        """(path, digest) → base64 of a small JPEG, without files that cannot be shown. Empty without a folder of images."""
        if not self._job.space.images or not files:
            return {}
        found = await self._in_thread(self._thumbnails, list(files))
        return {file: picture for file, picture in zip(files, found, strict=True) if picture}

    def _thumbnails(self, files: list[tuple[bytes, bytes]]) -> list[str | None]:
        job = ThumbnailsJob(self._job.space, tuple((path.hex(), digest.hex()) for path, digest in files))
        try:
            with self._runner.lease() as lease:
                return lease.call("thumbnails", job.record(), lambda _: None, self._limits)["thumbnails"]
        except WorkerDied as death:
            self.deaths += 1
            logger.warning("training pictures are not shown: %s", death)
            return [None] * len(files)

    async def close(self) -> None:
        """End every child, also in the middle of a job."""
        if self._keeper:
            self._keeper.cancel()
        self._runner.close()
        await asyncio.to_thread(self._threads.shutdown)

    async def _in_thread(self, function, *given) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *given)

    def _load(self) -> dict[str, Any]:
        with self._runner.lease() as lease:
            return self._call(lease, [])

    async def _keep(self) -> None:
        """Give children a job without images from time to time: idle ones stay, and dead ones are replaced."""
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            for _ in range(self.slots):  # a runner leases the slot that has been free for longest
                try:
                    await self._in_thread(self._load)
                except PoolClosed:
                    return
                except Exception as error:
                    logger.warning("a child cannot load the head: %s", error)

    def _call(self, lease: Lease, uploads: list[Upload]) -> dict[str, Any]:
        job = replace(
            self._job,
            threads=lease.slot.threads,
            largest_batch=lease.slot.largest_batch,
            images=tuple(base64.b64encode(upload.data).decode() for upload in uploads),
            squares=tuple(index for index, upload in enumerate(uploads) if upload.wants_square),
            vectors=tuple(index for index, upload in enumerate(uploads) if upload.wants_vector),
        )
        try:
            return lease.call("uploads", job.record(), lambda _: None, self._limits)
        except WorkerDied:
            self.deaths += 1
            raise

    def _answers_in_slot(self, uploads: list[Upload]) -> list[Answer]:
        with self._runner.lease() as lease:
            return self._answers(lease, uploads)

    def _answers(self, lease: Lease, uploads: list[Upload]) -> list[Answer]:
        try:
            return [_answer(record) for record in self._call(lease, uploads)["answers"]]
        except WorkerDied as death:
            return self._after_death(lease, uploads, death)

    def _after_death(self, lease: Lease, uploads: list[Upload], death: WorkerDied) -> list[Answer]:
        """Retry the images that were in flight one by one, then the others together."""
        places = [int.from_bytes(key, "big") for key in lease.in_flight()] or list(range(len(uploads)))
        logger.warning("%s; retrying %s individually", death, count(len(places), "in-flight image"))
        answers: dict[int, Answer] = {}
        for place in places:
            answers[place] = self._answer_alone(lease, uploads[place], is_new=place == places[0])
        rest = [place for place in range(len(uploads)) if place not in answers]
        if rest:
            answers |= dict(zip(rest, self._answers(lease, [uploads[place] for place in rest]), strict=True))
        return [answers[place] for place in range(len(uploads))]

    def _answer_alone(self, lease: Lease, upload: Upload, is_new: bool) -> Answer:
        """The answer to one image. Raises WorkerDied if the child dies while the image is not in flight.

        is_new: the child had no image before. If not, the images before may have damaged it, and a death is no proof.
        """
        if not is_new:
            with suppress(WorkerDied):
                return _answer(self._call(lease, [upload])["answers"][0])
        try:
            return _answer(self._call(lease, [upload])["answers"][0])
        except WorkerDied as death:
            if not lease.in_flight():
                raise
            logger.warning("an image is refused (%s): with it alone, %s", death.code, death)
            return Answer("quarantined", (), death.code, str(death))


def _answer(record: dict[str, Any]) -> Answer:
    return Answer(**record | {"probabilities": tuple(record["probabilities"])})
