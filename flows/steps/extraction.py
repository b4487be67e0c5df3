"""The fan-out of extraction: chunks become task runs, a bounded number at a time."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Queue

from prefect import Task

from flows.console.messages import shares
from flows.console.progress import Meter, Progress
from storage.text import count
from tasks.artifacts import ProgressArtifact
from tasks.caching import kept
from tasks.extract_chunk import extract_chunk, logs_of
from workers.devices import Placement, Slot, available_cores
from workers.jobs.records import ChunkResult, PlanRecord
from workers.runners.base import RunnerName
from workers.runners.running import end_runners, runner, running

# A task run costs Prefect some tenths of a second, which is negligible beside ten seconds of work.
SECONDS_A_TASK_RUN = 10.0


def chunks_a_run(remaining: int, slots: int, seconds_a_chunk: float | None) -> int:
    """How many chunks the next task run takes: SECONDS_A_TASK_RUN of work, and less towards the end.

    The last task runs take half of what is left per slot, but at least a quarter of that time, so that no child waits
    long for another. seconds_a_chunk: None if unknown; a task run then takes one chunk.
    """
    if seconds_a_chunk is None:
        return 1
    enough = SECONDS_A_TASK_RUN / max(seconds_a_chunk, 1e-3)
    last = max(math.ceil(enough / 4), math.ceil(remaining / slots / 2))
    return max(1, min(math.ceil(enough), last, math.ceil(remaining / slots)))


@dataclass
class Extraction:
    """Progress of extraction. results: of the finished chunks."""

    meter: Meter
    results: list[ChunkResult] = field(default_factory=list)
    _done: dict[int, int] = field(default_factory=dict)

    def on_batch(self, record: dict) -> None:
        """Receive the number of images done in a chunk, which its child reports after each batch."""
        self._done[record["chunk"]] = record["done"]
        self.meter.update(sum(list(self._done.values())), shares(self.results))


def extract_chunks(
    plan: PlanRecord,
    placed: Placement,
    engine: str,
    seconds_a_chunk: float | None,
    progress: Progress,
    runner_name: RunnerName = "local",
    on_free_core: Callable[[], None] = lambda: None,
    task: Task | None = None,
    verb: str = "extract",
) -> list[ChunkResult]:
    """Extract every chunk of the plan, with one more task run in flight than there are slots.

    task, verb: what to do with the chunks; by default `extract_chunk`. seconds_a_chunk: how long a child took per chunk last
    time, None if unknown. on_free_core: called as soon as the last chunks leave a core free, perhaps repeatedly, and not without
    chunks. Raises a task run's error once its retries are used up; finished shards stay in the store.
    """
    if not plan.num_chunks:
        end_runners(logs_of(plan))  # children that were started for another plan
        return []
    images, chunks = count(plan.images, "image"), count(plan.num_chunks, "chunk")
    progress.say(f"{verb}ing {images} in {chunks} on {engine} with {placed.summary}")
    artifact = ProgressArtifact(f"{verb}ion", f"{verb.title()}ion of {images}")
    # When `running` exits, also on Ctrl-C, task runs stop waiting for a child.
    with running(logs_of(plan)):
        extraction = Extraction(progress.meter(verb, plan.images, "images"))
        task = task or kept(extract_chunk, plan.space)
        for result in _finished(
            task, plan, placed.slots, engine, seconds_a_chunk, extraction, runner_name, on_free_core
        ):
            extraction.results += result
            artifact.update(sum(chunk.images for chunk in extraction.results) / plan.images)
    return extraction.results


def _finished(
    task: Task,
    plan: PlanRecord,
    slots: tuple[Slot, ...],
    engine: str,
    seconds_a_chunk: float | None,
    extraction: Extraction,
    runner_name: RunnerName,
    on_free_core: Callable[[], None],
) -> Iterator[list[ChunkResult]]:
    """Submit task runs as others finish, and yield their results in the order of completion."""
    pool = runner(runner_name, slots, logs_of(plan))
    finished: Queue = Queue()
    start = in_flight = 0
    while start < plan.num_chunks or in_flight:
        while start < plan.num_chunks and in_flight <= len(slots):
            number = chunks_a_run(plan.num_chunks - start, len(slots), seconds_a_chunk)
            future = task.submit(plan, start, number, slots, engine, extraction.on_batch, runner_name)
            future.add_done_callback(finished.put)
            start, in_flight = start + number, in_flight + 1
        if start == plan.num_chunks and in_flight < available_cores():
            pool.stop_idle(len(slots) - in_flight)  # no more chunks for them, and the next child needs memory
            on_free_core()
        future = finished.get()
        in_flight -= 1
        result = future.result()
        seconds_a_chunk = sum(chunk.ended - chunk.started for chunk in result) / len(result)
        yield result
    on_free_core()
