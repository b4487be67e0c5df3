"""The fan-out of extraction: chunks to task runs, a bounded number of them at a time."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty, Queue

from tasks.artifacts import ProgressArtifact
from tasks.caching import kept
from tasks.devices import Slot
from tasks.extract_chunk import extract_chunk, logs_of
from tasks.records import ChunkResult, PlanRecord
from tasks.worker_pool import running

# A task run costs Prefect some tenths of a second; in ten seconds of work that is lost in the noise.
SECONDS_A_TASK_RUN = 10.0
SAY_EVERY_SECONDS = 10.0


def chunks_a_run(remaining: int, slots: int, seconds_a_chunk: float | None) -> int:
    """How many chunks the next task run takes: worth ten seconds, but never more than its share of the rest."""
    if seconds_a_chunk is None:
        return 1
    enough = math.ceil(SECONDS_A_TASK_RUN / max(seconds_a_chunk, 1e-3))
    return max(1, min(enough, math.ceil(remaining / slots)))


@dataclass
class Progress:
    """How far the extraction is: told batch by batch from the children, said in lines of text."""

    total: int
    say: Callable[[str], None]
    results: list[ChunkResult] = field(default_factory=list)
    _done: dict[int, int] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=time.monotonic)

    def on_batch(self, record: dict) -> None:
        self._done[record["chunk"]] = record["done"]

    @property
    def done(self) -> int:
        return sum(list(self._done.values()))

    def tell(self, at_once: bool = False) -> None:
        """Say how far it is, at most every SAY_EVERY_SECONDS."""
        now = time.monotonic()
        if not at_once and now - self._said < SAY_EVERY_SECONDS:
            return
        self._said = now
        rate = self.done / max(now - self._began, 1e-9)
        left = (self.total - self.done) / rate if rate else math.inf
        eta = (
            f", {left / 60:.0f} min left" if 90 < left < math.inf else f", {left:.0f} s left" if left < math.inf else ""
        )
        self.say(f"extracted {self.done} of {self.total} images, {rate:.1f} images/s{eta}{self._stages()}")

    def _stages(self) -> str:
        totals: dict[str, float] = {}
        for result in self.results:
            for stage, seconds in result.seconds.items():
                totals[stage] = totals.get(stage, 0) + seconds
        whole = sum(totals.values())
        shares = ", ".join(f"{stage} {seconds / whole:.0%}" for stage, seconds in totals.items()) if whole else ""
        return f" ({shares})" if shares else ""


def extract_chunks(plan: PlanRecord, slots: tuple[Slot, ...], say: Callable[[str], None]) -> list[ChunkResult]:
    """Extract every chunk of the plan, one task run more in flight than there are slots.

    Raises what a task run raised once its tries are used up; shards that are finished stay in the store.
    """
    if not plan.num_chunks:
        return []
    say(f"extracting {plan.images} images in {plan.num_chunks} chunks with {len(slots)} workers")
    progress = Progress(plan.images, say)
    artifact = ProgressArtifact("extraction", f"Extraction of {plan.images} images")
    with running(logs_of(plan)):  # at its end, by Ctrl-C too, task runs that wait for a child do not wait on
        for result in _finished(plan, slots, progress):
            progress.results += result
            artifact.update(sum(chunk.images for chunk in progress.results) / plan.images)
    progress.tell(at_once=True)
    return progress.results


def _finished(plan: PlanRecord, slots: tuple[Slot, ...], progress: Progress) -> Iterator[list[ChunkResult]]:
    """Submit task runs as others finish, and give their results as they come."""
    task = kept(extract_chunk, plan.space)
    finished: Queue = Queue()
    start = in_flight = 0
    seconds_a_chunk: float | None = None
    while start < plan.num_chunks or in_flight:
        while start < plan.num_chunks and in_flight <= len(slots):
            count = chunks_a_run(plan.num_chunks - start, len(slots), seconds_a_chunk)
            future = task.submit(plan, start, count, slots, progress.on_batch)
            future.add_done_callback(finished.put)
            start, in_flight = start + count, in_flight + 1
        try:
            future = finished.get(timeout=1.0)
        except Empty:
            progress.tell()
            continue
        in_flight -= 1
        result = future.result()
        seconds_a_chunk = sum(chunk.ended - chunk.started for chunk in result) / len(result)
        yield result
