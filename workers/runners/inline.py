"""The inline runner: jobs run in the process of the run, one after the other, for tests and debuggers."""

import json
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from storage.finite import finite
from workers.children.in_flight import Stage
from workers.children.watchdog import Limits
from workers.devices import Slot
from workers.errors import PoolClosed
from workers.jobs.perform import perform
from workers.runners.base import NO_LIMITS, Lease, Runner

CAUTION = (
    "`runner=inline`: jobs run in this process, one at a time. An image that crashes it ends the run, and no time-out, "
    "memory limit or thread limit applies"
)
# Jobs take turns, because TensorFlow's settings and the engine belong to the whole process.
_one_at_a_time = Lock()


class InlineLease(Lease):
    """Runs each job in the calling thread. An error keeps its type and its traceback."""

    def call(self, kind: str, job: dict, on_progress: Callable[[dict], None], limits: Limits = NO_LIMITS) -> Any:
        with _one_at_a_time:
            self._check_open()
            self.is_busy = True
            try:
                return _as_json(perform(kind, _as_json(job), lambda record: self._hear(on_progress, record)))
            finally:
                self.is_busy = False

    def _hear(self, on_progress: Callable[[dict], None], record: dict) -> None:
        self._check_open()  # a job can be stopped only here
        on_progress(_as_json(record))

    def _check_open(self) -> None:
        if self.is_closed:
            raise PoolClosed("the run has ended")

    def in_flight(self) -> dict[bytes, Stage]:
        return {}  # a job that dies takes this process with it

    def stop(self) -> None:
        pass  # a thread cannot be killed; `_hear` raises at the job's next report


class InlineRunner(Runner[InlineLease]):
    """One slot, the first of `slots`. It writes to the log of this process, so the folder `logs` stays empty."""

    def __init__(self, slots: tuple[Slot, ...], logs: Path):
        super().__init__([InlineLease(slots[0])])


def _as_json(record: Any) -> Any:
    """The record as another process would receive it, so that no job depends on running in this one."""
    return json.loads(json.dumps(finite(record), allow_nan=False))
