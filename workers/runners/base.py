"""The runner interface: a runner has slots, and each slot runs one job at a time.

A job is a JSON record (workers/jobs/records.py) that carries everything it needs, and its result is a JSON record too.
A runner may therefore send both to another process or another machine.
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, Queue
from typing import Any, Generic, Literal, TypeVar

from workers.children.in_flight import Stage
from workers.children.watchdog import Limits
from workers.devices import Slot
from workers.errors import PoolClosed

logger = logging.getLogger(__name__)

RunnerName = Literal["local", "inline"]
NO_LIMITS = Limits()


class Lease(ABC):
    """A slot of a runner, held by one caller. It runs one job at a time.

    is_busy: a job is running. is_closed: the runner takes no more jobs.
    """

    def __init__(self, slot: Slot):
        self.slot = slot
        self.is_busy = False
        self.is_closed = False

    @abstractmethod
    def call(self, kind: str, job: dict, on_progress: Callable[[dict], None], limits: Limits = NO_LIMITS) -> Any:
        """Run a job and return its result. `kind` and `job` are the arguments of workers/jobs/perform.py.

        `on_progress` receives each progress record of the job, in order, before this method returns. Raises WorkerDied
        if the job's process ends or exceeds `limits`, and PoolClosed if the run is ending. EXPECTED errors and OSErrors
        keep their type. Any other error becomes WorkerFailed, unless the job runs in this process.
        """

    @abstractmethod
    def in_flight(self) -> dict[bytes, Stage]:
        """Digest → stage of the images in flight when the last job died. The likeliest culprit comes first."""

    @abstractmethod
    def stop(self) -> None:
        """End the job in the slot at once, if that is possible. The next job starts afresh."""


AnyLease = TypeVar("AnyLease", bound=Lease)


class Runner(Generic[AnyLease]):
    """Slots that run jobs. Each is leased to one caller at a time."""

    def __init__(self, leases: Sequence[AnyLease]):
        self.leases = tuple(leases)
        self._free: Queue[AnyLease] = Queue()
        for lease in self.leases:
            self._free.put(lease)

    @contextmanager
    def lease(self) -> Iterator[AnyLease]:
        """Wait for a free slot and hold it while the block runs. Raises PoolClosed after `close`."""
        lease = self._free.get()
        with self._held(lease):
            yield lease

    @contextmanager
    def _held(self, lease: AnyLease) -> Iterator[None]:
        try:
            if lease.is_closed:
                raise PoolClosed("the run has ended")
            yield
        except BaseException:
            if lease.is_busy:
                lease.stop()  # its job was interrupted in an unknown state
            raise
        finally:
            self._free.put(lease)

    def warm_up(self, load: Callable[[AnyLease], None]) -> None:
        """Call `load` with every lease, in threads of their own, before anybody else gets one.

        The first caller of `lease` gets the first slot that is ready. An error of `load` is only logged: the slot's next
        job meets its cause again.
        """
        for lease in [self._free.get() for _ in self.leases]:
            # A daemon, because Python would wait for the others before it calls the function that closes the runner.
            threading.Thread(target=self._warm, args=(lease, load), daemon=True).start()

    def _warm(self, lease: AnyLease, load: Callable[[AnyLease], None]) -> None:
        try:
            with self._held(lease):
                load(lease)
        except Exception as error:
            logger.debug("a slot did not warm up: %s", error)

    def stop_idle(self, count: int) -> None:
        """Stop at most `count` slots that nobody holds, to free their memory. Their next job starts afresh."""
        with suppress(Empty):
            for _ in range(count):
                lease = self._free.get_nowait()
                lease.stop()
                self._free.put(lease)

    def close(self) -> None:
        """End every job, for good. A caller that waits for a lease gets PoolClosed."""
        for lease in self.leases:
            lease.is_closed = True
            lease.stop()
