"""Predict images whose bytes came with the job: what a server hands to a child. No Prefect here."""

import base64
import io
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import PIL.Image

from storage.backend.paths import place
from storage.reading.pooling import pooled
from storage.reasons import FILE_FAULTS
from storage.shards.view_ids import PLAIN
from vision.engines.extract import NoTracker, Tracker
from vision.pixels.decode import decode
from vision.specs import FeatureSpec
from workers.jobs.opened_head import open_head
from workers.jobs.predictor import WHOLE_BATCH, Predictor
from workers.jobs.records import Space
from workers.jobs.uploads import UploadsJob

KEY_BYTES = 32  # as many as a digest has, because workers/children/in_flight.py notes digests


def key_of(index: int) -> bytes:
    """The key of the image at a place of the job, by which a child notes it as in flight."""
    return index.to_bytes(KEY_BYTES, "big")


def predict_uploads(job: UploadsJob, report: Callable[[dict], None], tracker: Tracker | None = None) -> dict[str, Any]:
    """The answers to the images of a job, in their order. Without images, it only loads the head and its engine.

    Returns engine (its name), batch (images that it computes at a time) and answers: status, probabilities in the order
    of the classes, reason, message, square (the pixels that the network sees, as base64 of a PNG) and vector (the global
    average of the features, as base64 of float32); both None if not asked for. A fine-tuned head has no features. Raises what `open_head` and `Predictor` raise.
    """
    predictor = _predictor(job.space, job.head, job.engine, job.threads, job.largest_batch)
    images = [(key_of(index), partial(base64.b64decode, data), [PLAIN]) for index, data in enumerate(job.images)]
    found = predictor.predict(images, lambda done: report({"done": done}), tracker)
    answers: list[dict[str, Any]] = [{} for _ in images]
    for key, row in zip(found.keys, found.probabilities.tolist(), strict=True):
        answers[int.from_bytes(key, "big")] = _answer("ok", row)
    for key, (code, message) in found.errors.items():
        status = "pending" if code in FILE_FAULTS else "quarantined"
        answers[int.from_bytes(key, "big")] = _answer(status, [], code, message)
    for key, average in zip(found.keys, _averages(found.extracted.features), strict=False):
        index = int.from_bytes(key, "big")
        if index in job.vectors:
            answers[index]["vector"] = base64.b64encode(average.tobytes()).decode()
    for index in job.squares:
        if answers[index]["status"] == "ok":
            (tracker or NoTracker()).decoding(key_of(index))
            answers[index]["square"] = _square(base64.b64decode(job.images[index]), job.space.spec)
    (tracker or NoTracker()).decoded()
    batch = predictor.engine.batch_size if predictor.engine else WHOLE_BATCH
    return {"engine": predictor.engine_name, "batch": batch, "answers": answers}


@lru_cache(1)
def _predictor(space: Space, head: str, engine: str, threads: int, largest_batch: int | None) -> Predictor:
    return Predictor(open_head(place(space.root), head), space, engine, threads, largest_batch)  # type: ignore[arg-type]


def _answer(
    status: str, probabilities: list[float], reason: str | None = None, message: str | None = None
) -> dict[str, Any]:
    answer = {"status": status, "probabilities": probabilities, "reason": reason, "message": message}
    return answer | {"square": None, "vector": None}


def _averages(features: np.ndarray) -> np.ndarray:
    """(n, channels) `<f4`; no rows without features."""
    return pooled(features)[0].astype("<f4") if len(features) else np.empty((0, 0))


def _square(data: bytes, spec: FeatureSpec) -> str:
    """The pixels that the network sees, as base64 of a PNG."""
    sink = io.BytesIO()
    pixels = decode(data, spec.image_size, spec.exif, spec.sixteen_bit)
    PIL.Image.fromarray(pixels).save(sink, "PNG", compress_level=1)
    return base64.b64encode(sink.getvalue()).decode()
