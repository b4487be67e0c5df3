"""Start children before their first job, so that they load their libraries while the run does something else.

No result depends on it. Whoever asks for the same runner gets the warm children, and a child that could not load fails
again at its job, where the error is reported.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from workers.children.watchdog import Limits
from workers.devices import Placement, Slot, training_slots
from workers.jobs.records import LoadJob, Space
from workers.runners.base import Lease, RunnerName
from workers.runners.running import end_runners, extraction_logs, new_runner, training_logs

# Loading TensorFlow and the weights takes a minute on a slow disk.
LIMITS = Limits(600.0)


@dataclass(frozen=True)
class WarmUp:
    """A runner to create early: its slots and logs, and the job that each child loads. Without slots nothing is created.

    A context manager: it starts the children, and ends them at exit, whether or not the run has used them. placed: the
    whole placement, of which the slots are a part.
    """

    slots: tuple[Slot, ...]
    logs: Path
    job: LoadJob
    placed: Placement | None = None

    def begin(self) -> None:
        """Create the runner, and let its children load in the background. Does nothing if the runner exists."""
        if self.slots and (runner := new_runner("local", self.slots, self.logs)):
            _begun[self.logs] = self
            runner.warm_up(self._load)

    def _load(self, lease: Lease) -> None:
        job = replace(self.job, threads=lease.slot.threads, largest_batch=lease.slot.largest_batch)
        lease.call("load", asdict(job), lambda _: None, LIMITS)

    def __enter__(self) -> "WarmUp":
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        _begun.pop(self.logs, None)
        end_runners(self.logs)


_begun: dict[Path, WarmUp] = {}


def placed_early(logs: Path, engine: str) -> Placement | None:
    """The placement of an extraction whose children have started early; None if there are none with this engine.

    A new placement would count the memory of those children as taken.
    """
    early = _begun.get(logs)
    return early.placed if early is not None and early.job.engine == engine else None


def extraction(runner: RunnerName, placed: Placement, num_chunks: int, space: Space, engine: str) -> WarmUp:
    """Children of an extraction, which load its engine. Only children gain from it: other runners get no slots."""
    slots = placed.at_most(num_chunks).slots if runner == "local" and num_chunks else ()
    return WarmUp(slots, extraction_logs(space.store), LoadJob(engine, space), placed)


def training(runner: RunnerName, space: Space) -> WarmUp:
    """The child of a training, which loads Keras. With several GPUs it is open which slot a training gets."""
    slots = training_slots()
    return WarmUp(slots if runner == "local" and len(slots) == 1 else (), training_logs(space.store), LoadJob())
