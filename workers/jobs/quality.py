"""Measure the pictures of chunks of images, and keep the figures by digest. Runs in a child; no Prefect or engine here."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from storage.reading.figures import figures_folder, write_figures
from storage.records import sha256
from storage.schemas import DIGEST
from vision.engines.extract import Extracted, NoTracker, Tracker
from vision.inspection.quality import ALGORITHM, Quality, measure
from vision.pixels.decode import ImageError
from workers.jobs.extract import chunk_result
from workers.jobs.files import images_of
from workers.jobs.records import ChunkResult, ChunksJob, Space

TYPES = {int: pa.int32(), float: pa.float32()}
NAMES = tuple(field.name for field in fields(Quality))
SCHEMA = pa.schema([("digest", DIGEST), *((field.name, TYPES[field.type]) for field in fields(Quality))])  # type: ignore[index]


@dataclass(frozen=True)
class QualityJob(ChunksJob):
    """Chunks whose pictures are measured. pieces: the folder to write to."""

    KIND: ClassVar[str] = "quality"
    TRIAL: ClassVar[str] = "quality"

    pieces: str = ""


def quality_folder(space: Space) -> Path:
    """The folder of the figures. Feature spaces that decode alike share it."""
    key = [ALGORITHM, space.spec.exif, space.spec.sixteen_bit]
    return figures_folder(space.store, sha256(json.dumps(key).encode())[:32])


def measure_chunks(
    job: QualityJob, report: Callable[[dict], None], tracker: Tracker | None = None
) -> list[ChunkResult]:
    """Measure each chunk and write its figures. report: receives a record for each `finished` chunk."""
    results = []
    for index in range(job.start, job.start + job.count):
        started, todo, began = time.time(), job.chunk(index), time.perf_counter()
        rows, found = _measured(job, todo, tracker or NoTracker())
        report({"chunk": index, "done": todo.num_rows})
        piece = write_figures(Path(job.pieces), pa.Table.from_pylist(rows, SCHEMA))
        written = {"shard": piece.name, "size_bytes": piece.stat().st_size, "rows": len(rows), "footer_checksum": ""}
        results.append(chunk_result(job, found, started, began, "", None, **written))
        report({"finished": asdict(results[-1])})
    return results


def try_alone(job: QualityJob, tracker: Tracker | None = None) -> str | None:
    """Measure the image `job.alone` and keep nothing. Returns the code of its fault, or None."""
    digest = bytes.fromhex(job.alone or "")
    _, found = _measured(job, job.todo, tracker or NoTracker())
    return found.errors[digest][0] if digest in found.errors else None


def _measured(job: QualityJob, todo: pa.Table, tracker: Tracker) -> tuple[list[dict], Extracted]:
    """The figures of the images, and the reasons why others have none."""
    found = Extracted([], np.empty(0, np.uint16), np.empty(0, np.float32), {})
    rows = []
    for digest, read, _ in images_of(todo, job):
        try:
            tracker.reading(digest)
            data = read()
            tracker.decoding(digest)
            rows.append({"digest": digest, **asdict(measure(data, job.space.spec.exif, job.space.spec.sixteen_bit))})
            found.keys.append(digest)
        except ImageError as error:
            found.errors[digest] = error.code, str(error)
        tracker.decoded()
    return rows, found
