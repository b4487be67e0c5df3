"""A job by its kind: what every runner calls, in whatever process it runs jobs."""

from collections.abc import Callable
from dataclasses import asdict

from vision.engines.extract import Hands
from workers.jobs.records import ChunksJob, HeadJob


def perform(kind: str, job: dict, report: Callable[[dict], None], hands: Hands | None = None) -> dict | list[dict]:
    """Do a job and return its result as a record; `report` hears of progress, `hands` of the images in flight.

    Imports what the job computes with only now: a process that has had no job has loaded no engine.
    """
    if kind in ("chunks", "trial"):
        return _extract(ChunksJob.of(job), report, hands)
    if kind == "head":
        from workers.jobs.train import train_head

        return asdict(train_head(HeadJob.of(job), report))
    raise ValueError(f"unknown kind of job {kind!r}; expected chunks, trial or head")


def _extract(job: ChunksJob, report: Callable[[dict], None], hands: Hands | None) -> dict | list[dict]:
    from vision.engines import load_engine
    from workers.jobs.extract import process_chunks, try_alone

    engine = load_engine(job.engine, job.space.spec, job.space.weights, job.threads)
    if job.alone is not None:
        return {"code": try_alone(job, engine, hands)}
    return [asdict(result) for result in process_chunks(job, engine, report, hands)]
