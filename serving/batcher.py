"""Concurrent requests share the batches of the engine: images wait a few ms for company, then a free slot takes them."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from serving.refusal import Refusal

logger = logging.getLogger(__name__)

MOST_WAITS = 10  # times `wait_seconds`, while images go on arriving
BATCH_BYTES = 64_000_000  # of the files of one batch, which become a third longer on their way to a child


@dataclass(frozen=True)
class Upload:
    """A file of a request. wants_square: the answer has the pixels that the network sees; wants_vector: the average of its
    features."""

    name: str | None
    data: bytes
    wants_square: bool = False
    wants_vector: bool = False


@dataclass(frozen=True)
class Answer:
    """What is known about one image: workers/jobs/predict_uploads.py has the fields."""

    status: str
    probabilities: tuple[float, ...] = ()
    reason: str | None = None
    message: str | None = None
    square: str | None = None
    vector: str | None = None


Run = Callable[[Sequence[Upload]], Awaitable[list[Answer]]]


class Batcher:
    """One loop per slot: it takes waiting images, and gives their answers to whoever waits for them.

    run: computes a batch. largest: images per batch. wait_seconds: an image waits so long for the next one.
    """

    def __init__(self, run: Run, slots: int, largest: int, wait_seconds: float, most_waiting: int):
        self._run, self._largest = run, largest
        self._wait_seconds, self._most_waiting = wait_seconds, most_waiting
        self._waiting: deque[tuple[Upload, asyncio.Future[Answer]]] = deque()
        self._arrived = asyncio.Condition()
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._free = 0
        self._loops = [asyncio.create_task(self._serve()) for _ in range(slots)]

    @property
    def waiting(self) -> int:
        """The number of images without an answer, also those that are computed now."""
        return self._unanswered

    async def answers(self, uploads: Sequence[Upload]) -> list[Answer]:
        """The answers to images, in their order. Raises Refusal if too many wait."""
        if self._unanswered + len(uploads) > self._most_waiting:
            raise Refusal(429, "too_many_images", f"{self._unanswered} images are waiting already; try again", 1)
        futures = [self._add(upload) for upload in uploads]
        async with self._arrived:
            self._arrived.notify_all()
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:
                future.cancel()  # a loop drops the images of a request that nobody waits for

    def _add(self, upload: Upload) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        future.add_done_callback(self._answered)
        self._unanswered += 1
        self._all_answered.clear()
        self._waiting.append((upload, future))
        return future

    def _answered(self, future: asyncio.Future[Answer]) -> None:
        self._unanswered -= 1
        if not self._unanswered:
            self._all_answered.set()

    async def drain(self) -> None:
        """Answer what waits, then end the loops."""
        await self._all_answered.wait()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    async def _serve(self) -> None:
        while True:
            batch = await self._next_batch()
            if not batch:
                continue
            try:
                found = await self._run([upload for upload, _ in batch])
                for (_, future), answer in zip(batch, found, strict=True):
                    if not future.done():
                        future.set_result(answer)
            except Exception as error:
                logger.warning("a batch of %d images has no answer: %s", len(batch), error)
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    async def _next_batch(self) -> list[tuple[Upload, asyncio.Future[Answer]]]:
        """Images for one slot, in the order of arrival: a fair share of those that wait, at most a batch."""
        self._free += 1
        try:
            async with self._arrived:
                await self._arrived.wait_for(lambda: self._waiting)
            await self._company()
            share = -(-len(self._waiting) // self._free)
        finally:
            self._free -= 1
        batch: list[tuple[Upload, asyncio.Future[Answer]]] = []
        size = 0
        while self._waiting and len(batch) < min(share, self._largest) and size <= BATCH_BYTES:
            upload, future = self._waiting.popleft()
            if not future.done():
                batch.append((upload, future))
                size += len(upload.data)
        return batch

    async def _company(self) -> None:
        """Wait until no image has come for a moment, a batch is full, or MOST_WAITS moments are over.

        The clients that got the answers of one batch ask again one after the other. Together they are the next batch; the first few
        of them alone would take nearly as long.
        """
        before = 0
        for _ in range(MOST_WAITS):
            if len(self._waiting) == before or len(self._waiting) >= self._largest:
                return
            before = len(self._waiting)
            await asyncio.sleep(self._wait_seconds)
