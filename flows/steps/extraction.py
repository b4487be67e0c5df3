"""The fan-out of extraction: chunks to task runs, a bounded number of them at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import Queue

from flows.console.messages import shares
from flows.console.progress import Meter, Progress
from tasks.artifacts import ProgressArtifact
from tasks.caching import kept
from tasks.extract_chunk import extract_chunk, logs_of
from workers.devices import Slot
from workers.jobs.records import ChunkResult, PlanRecord
from workers.runners.base import RunnerName
from workers.runners.running import running

# A task run costs Prefect some tenths of a second; in ten seconds of work that is lost in the noise.
SECONDS_A_TASK_RUN = 10.0


def chunks_a_run(remaining: int, slots: int, seconds_a_chunk: float | None) -> int:
    """How many chunks the next task run takes: worth ten seconds, and less towards the end.

    The last ones are half of what is left for each slot, and worth a quarter of that time at least, so that no child
    waits long for another.
    """
    if seconds_a_chunk is None:
        return 1
    enough = SECONDS_A_TASK_RUN / max(seconds_a_chunk, 1e-3)
    last = max(math.ceil(enough / 4), math.ceil(remaining / slots / 2))
    return max(1, min(math.ceil(enough), last, math.ceil(remaining / slots)))


@dataclass
class Extraction:
    """How far the extraction is: told batch by batch from the children, and chunk by chunk."""

    meter: Meter
    results: list[ChunkResult] = field(default_factory=list)
    _done: dict[int, int] = field(default_factory=dict)

    def on_batch(self, record: dict) -> None:
        self._done[record["chunk"]] = record["done"]
        self.meter.update(sum(list(self._done.values())), shares(self.results))


def extract_chunks(
    plan: PlanRecord,
    slots: tuple[Slot, ...],
    engine: str,
    seconds_a_chunk: float | None,
    progress: Progress,
    runner: RunnerName = "local",
) -> list[ChunkResult]:
    """Extract every chunk of the plan, one task run more in flight than there are slots.

    seconds_a_chunk: what a chunk took a child the last time, None where that is not known. Raises what a task
    run raised once its tries are used up; shards that are finished stay in the store.
    """
    if not plan.num_chunks:
        return []
    progress.say(
        f"extracting {plan.images:,} images in {plan.num_chunks:,} chunks with {len(slots)} workers on {engine}"
    )
    artifact = ProgressArtifact("extraction", f"Extraction of {plan.images} images")
    # At the end of `running`, by Ctrl-C too, task runs that wait for a child do not wait on.
    with running(logs_of(plan)):
        extraction = Extraction(progress.meter("extract", plan.images, "images"))
        for result in _finished(plan, slots, engine, seconds_a_chunk, extraction, runner):
            extraction.results += result
            artifact.update(sum(chunk.images for chunk in extraction.results) / plan.images)
    return extraction.results


def _finished(
    plan: PlanRecord,
    slots: tuple[Slot, ...],
    engine: str,
    seconds_a_chunk: float | None,
    extraction: Extraction,
    runner: RunnerName,
) -> Iterator[list[ChunkResult]]:
    """Submit task runs as others finish, and give their results as they come."""
    task = kept(extract_chunk, plan.space)
    finished: Queue = Queue()
    start = in_flight = 0
    while start < plan.num_chunks or in_flight:
        while start < plan.num_chunks and in_flight <= len(slots):
            count = chunks_a_run(plan.num_chunks - start, len(slots), seconds_a_chunk)
            future = task.submit(plan, start, count, slots, engine, extraction.on_batch, runner)
            future.add_done_callback(finished.put)
            start, in_flight = start + count, in_flight + 1
        future = finished.get()
        in_flight -= 1
        result = future.result()
        seconds_a_chunk = sum(chunk.ended - chunk.started for chunk in result) / len(result)
        yield result
