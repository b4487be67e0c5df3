"""Runs a job of a given kind. Every runner calls this, in whichever process it runs jobs."""

from collections.abc import Callable
from dataclasses import asdict

from vision.engines.extract import Tracker
from vision.specs import FeatureSpec
from workers.jobs.records import ChunksJob, HeadJob, LoadJob


def perform(kind: str, job: dict, report: Callable[[dict], None], tracker: Tracker | None = None) -> dict | list[dict]:
    """Run a job and return its result as a record. Raises ValueError for an unknown kind.

    report: receives progress records. tracker: records which images are in flight. The imports are in the functions, so
    that a process without a job loads no engine.
    """
    if kind in ("chunks", "trial"):
        return _extract(ChunksJob.of(job), report, tracker)
    if kind == "head":
        from workers.jobs.train import train_head

        return asdict(train_head(HeadJob.of(job), report))
    if kind == "uploads":
        from workers.jobs.predict_uploads import predict_uploads
        from workers.jobs.uploads import UploadsJob

        return predict_uploads(UploadsJob.of(job), report, tracker)
    if kind == "thumbnails":
        from workers.jobs.thumbnails import ThumbnailsJob, thumbnails

        return thumbnails(ThumbnailsJob.of(job))
    if kind == "rates":
        from vision.engines.rates import measure_rates

        return measure_rates(FeatureSpec(**job["spec"]), job["weights"])
    if kind == "export":
        from workers.jobs.export_model import ExportJob, export_model

        return asdict(export_model(ExportJob.of(job)))
    if kind in ("quality", "inspect"):
        return _inspect(kind, job, report, tracker)
    if kind == "load":
        return _load(LoadJob.of(job))
    if kind in ("predict", "predict_stored"):
        return _predict(kind, job, report, tracker)
    raise ValueError(f"unknown kind of job {kind!r}")


def _load(job: LoadJob) -> dict:
    if job.engine is None or job.space is None:
        from vision.training.head_model import load_keras
        from workers.jobs import train  # noqa: F401 - its libraries

        load_keras()
    else:
        from vision.engines import load_engine
        from workers.jobs import extract  # noqa: F401 - its libraries

        load_engine(job.engine, job.space.spec, job.space.weights, job.threads, None, job.largest_batch)
    return {}


def _extract(job: ChunksJob, report: Callable[[dict], None], tracker: Tracker | None) -> dict | list[dict]:
    from vision.engines import load_engine
    from workers.jobs.extract import process_chunks, try_alone

    engine = load_engine(job.engine, job.space.spec, job.space.weights, job.threads, None, job.largest_batch)
    if job.alone is not None:
        return {"code": try_alone(job, engine, tracker)}
    return [asdict(result) for result in process_chunks(job, engine, report, tracker)]


def _predict(kind: str, job: dict, report: Callable[[dict], None], tracker: Tracker | None) -> dict | list[dict]:
    from workers.jobs.predict import PredictJob, StoredJob, predict_chunks, predict_stored, try_alone

    if kind == "predict_stored":
        return asdict(predict_stored(StoredJob.of(job), report))
    chunks = PredictJob.of(job)
    if chunks.alone is not None:
        return {"code": try_alone(chunks, tracker)}
    return [asdict(result) for result in predict_chunks(chunks, report, tracker)]


def _inspect(kind: str, job: dict, report: Callable[[dict], None], tracker: Tracker | None) -> dict | list[dict]:
    from workers.jobs.inspect_data import InspectJob, inspect_data
    from workers.jobs.quality import QualityJob, measure_chunks, try_alone

    if kind == "inspect":
        return asdict(inspect_data(InspectJob.of(job), report))
    chunks = QualityJob.of(job)
    if chunks.alone is not None:
        return {"code": try_alone(chunks, tracker)}
    return [asdict(result) for result in measure_chunks(chunks, report, tracker)]
