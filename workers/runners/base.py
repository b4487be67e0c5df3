"""The runner interface: where jobs run, one at a time in each of a number of slots.

A job is a JSON record (workers/jobs/records.py) that carries all it needs, and so is its result: a runner may send both to
another process or another machine.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Queue
from typing import Any, Generic, Literal, TypeVar

from storage.errors import InputError, NoRoom, StorageError, StoreBusy, StoreDamaged, TooManyRemovals
from vision.errors import SpecError, WeightsError
from workers.children.in_flight import Stage
from workers.children.watchdog import Limits
from workers.devices import Slot

RunnerName = Literal["local", "inline"]
# The errors that a job raises on purpose: they keep their type on the way back, and trying again cannot help.
EXPECTED = {
    kind.__name__: kind
    for kind in (InputError, StorageError, StoreBusy, StoreDamaged, NoRoom, TooManyRemovals, SpecError, WeightsError)
}
# Python's own errors of a program that is wrong: the same work raises them again.
CERTAIN = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)
NO_LIMITS = Limits()


class WorkerDied(RuntimeError):
    """A job's process ended, or was ended, before the job did. Trying again can help.

    code: `timeout` if it was ended for the time that it took, else `crashed`.
    """

    exit_status = 1

    def __init__(self, message: str, code: str = "crashed"):
        super().__init__(message)
        self.code = code


class PoolClosed(RuntimeError):
    """The run is ending: its runner takes no more jobs. Trying again cannot help."""

    exit_status = 1


class WorkerFailed(RuntimeError):
    """A job raised something unforeseen in another process; its log has the traceback.

    can_help: another try may succeed.
    """

    exit_status = 1

    def __init__(self, message: str, can_help: bool = True):
        super().__init__(message)
        self.can_help = can_help


class Lease(ABC):
    """A slot of a runner, held by one caller: runs one job at a time.

    is_busy: a job is running. is_closed: the runner takes no more jobs.
    """

    def __init__(self, slot: Slot):
        self.slot = slot
        self.is_busy = False
        self.is_closed = False

    @abstractmethod
    def call(self, kind: str, job: dict, on_progress: Callable[[dict], None], limits: Limits = NO_LIMITS) -> Any:
        """Run a job and return its result; `kind` and `job` are what workers/jobs/perform.py takes.

        `on_progress` receives each progress record of the job, in order, before this returns. Raises WorkerDied if the
        job's process ends or exceeds `limits`, PoolClosed if the run is ending, the error's own type if it is expected
        or the machine's, else WorkerFailed or, in the same process, the error itself.
        """

    @abstractmethod
    def in_flight(self) -> dict[bytes, Stage]:
        """The images that the last job was working on when it died, by digest; the likeliest culprit comes first."""

    @abstractmethod
    def stop(self) -> None:
        """End what runs in the slot at once, if that is possible. The next job starts afresh."""


AnyLease = TypeVar("AnyLease", bound=Lease)


class Runner(Generic[AnyLease]):
    """Slots to run jobs in. Each is leased to one caller at a time."""

    def __init__(self, leases: Sequence[AnyLease]):
        self.leases = tuple(leases)
        self._free: Queue[AnyLease] = Queue()
        for lease in self.leases:
            self._free.put(lease)

    @contextmanager
    def lease(self) -> Iterator[AnyLease]:
        """Hold a slot for the length of the block; waits until one is free. Raises PoolClosed after `close`."""
        lease = self._free.get()
        try:
            if lease.is_closed:
                raise PoolClosed("the run has ended")
            yield lease
        except BaseException:
            if lease.is_busy:
                lease.stop()  # its job is cut off in an unknown state
            raise
        finally:
            self._free.put(lease)

    def close(self) -> None:
        """End every job, for good. Whoever waits for a lease gets PoolClosed."""
        for lease in self.leases:
            lease.is_closed = True
            lease.stop()
