"""The head that answers now, and the one that replaces it when the current head of the store changes."""

import asyncio
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from serving.batcher import Answer, Batcher, Upload
from serving.limits import Limits
from serving.nearest import TrainingPictures
from serving.pool import Pool
from storage.backend.paths import Place
from storage.heads.current import current_head
from storage.layout import Store
from vision.engines.rates import known_rates
from vision.engines.selection import EngineName, choose
from workers.devices import Placement, placement, visible_gpus
from workers.jobs.opened_head import OpenedHead, open_head
from workers.jobs.spaces import computable_space
from workers.jobs.uploads import UploadsJob
from workers.runners.base import RunnerName

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
RETRY_SECONDS = 30.0  # after a head that could not be loaded
WAIT_SECONDS = 0.004  # an image waits so long for the next one; a batch takes 30 to 1,000 times that


@dataclass(frozen=True)
class Options:
    """What is served. images: the folder of the training images, None: their names alone are shown. head: a name, or None for the current one, which is followed. workers: children, None: by cores and
    memory. weights: once, for a store that does not keep them."""

    store: Place
    head: str | None = None
    engine: EngineName = "auto"
    workers: int | None = None
    weights: str | None = None
    images: Place | None = None
    runner: RunnerName = "local"
    limits: Limits = field(default_factory=Limits)


class Model:
    """One head, ready to answer."""

    def __init__(self, head: OpenedHead, pool: Pool, limits: Limits):
        self.head, self.pool = head, pool
        self.nearest = TrainingPictures(head, pool.store, pool)
        self._batcher = Batcher(pool.answers, pool.slots, pool.batch, WAIT_SECONDS, limits.waiting_images)

    @classmethod
    async def load(cls, options: Options, name: str | None) -> "Model":
        """Open a head and load it in children.

        Raises InputError, StoreDamaged, SpecError or WeightsError, or what a child raises, and leaves no child behind.
        """
        pool = None
        try:
            head, pool = await asyncio.to_thread(_prepared, options, name)
            await pool.start()
        except BaseException:
            if pool:
                await pool.close()
            raise
        return cls(head, pool, options.limits)

    async def answers(self, uploads: Sequence[Upload]) -> list[Answer]:
        """The answers to images, in their order. Raises Refusal if too many wait."""
        return await self._batcher.answers(uploads)

    @property
    def waiting(self) -> int:
        """The number of images without an answer."""
        return self._batcher.waiting

    async def close(self) -> None:
        """Answer what waits, then end the children."""
        await self._batcher.drain()
        self.nearest.close()
        await self.pool.close()

    @property
    def record(self) -> dict[str, Any]:
        """What clients may know about the head."""
        head = self.head
        return {
            "head": head.name,
            "classes": list(head.classes),
            "fingerprint": head.fingerprint,
            "version": head.version,
            "engine": self.pool.engine,
            "image_size": head.spec.image_size,
            "is_fine_tuned": head.is_whole,
            "created": head.record.get("created"),
            "metrics": head.record.get("metrics", {}),
            "test": head.record.get("test"),
        }


def _prepared(options: Options, name: str | None) -> tuple[OpenedHead, Pool]:
    head = open_head(options.store, name)
    space = computable_space(options.store, head.spec, options.weights)
    space = replace(space, images=str(options.images or ""))
    engine = "tensorflow"  # a fine-tuned head is a whole Keras network
    if not head.is_whole:
        engine = choose(options.engine, head.spec, bool(visible_gpus()), known_rates(head.spec))
    placed: Placement = placement(options.workers, engine, head.spec)
    logger.info("%s", placed.summary)
    job = UploadsJob(space, head.name, engine, 1)
    return head, Pool(job, placed.slots, _logs(space.store), options.runner)


def _logs(store: Store) -> Path:
    """A folder for the logs of the children: in the store's cache, or a temporary one if the store cannot be written to."""
    logs = store.cache / "logs" / "serving"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=logs).close()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="extract-and-train-serving-"))
    return logs


class Following:
    """The model that answers now. Without a named head it follows the current head of the store.

    A request stays with the model that it began with. reloads, failures: how many heads were loaded, or could not be.
    """

    def __init__(self, options: Options, model: Model):
        self.options, self.model = options, model
        self.is_stopping = False
        self.reloads = self.failures = 0
        self._retry_after = 0.0
        self._closing: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, options: Options) -> "Following":
        """Load the head. Raises what `Model.load` raises."""
        found = cls(options, await Model.load(options, options.head))
        if options.head is None:
            found._watcher = asyncio.create_task(found._watch())
        return found

    async def close(self) -> None:
        """Answer what waits, then end all children."""
        self.is_stopping = True
        if self._watcher:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        await asyncio.gather(self.model.close(), *self._closing)

    async def look(self) -> None:
        """Load the current head if it is another one. If that fails, the model of before goes on answering."""
        name = await asyncio.to_thread(current_head, Store(self.options.store, ""))
        now = asyncio.get_running_loop().time()
        if name is None or name == self.model.head.name or now < self._retry_after:
            return
        try:
            model = await Model.load(self.options, name)
        except Exception as error:
            self.failures += 1
            self._retry_after = now + RETRY_SECONDS
            logger.warning("head %s cannot be served, so %s goes on: %s", name, self.model.head.name, error)
            return
        before, self.model = self.model, model
        self.reloads += 1
        logger.info("serving head %s now, in place of %s", name, before.head.name)
        closing = asyncio.create_task(before.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception as error:
                logger.warning("the store cannot be read, so head %s goes on: %s", self.model.head.name, error)
