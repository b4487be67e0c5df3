"""The steady rate of a run, from moments on a clock that all processes share."""

import os
import time
from pathlib import Path
from typing import NamedTuple


class Done(NamedTuple):
    """A number of images that finished at `moment`. On Linux, perf_counter is the same in all processes."""

    moment: float
    worker: int
    images: int


def done(images: int) -> Done:
    return Done(time.perf_counter(), os.getpid(), images)


def make_durable(folder: Path) -> float:
    """fsync all files and folders below `folder`, and return the moment after it."""
    for path in [*folder.rglob("*"), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    return time.perf_counter()


def steady(events: list[Done], ended: float, workers: int = 1, warm_batches: int = 1) -> dict:
    """Images per second from the warm moment, when each of `workers` has finished `warm_batches`, to `ended`."""
    events = sorted(events)
    moments: dict[int, list[float]] = {}
    for event in events:
        moments.setdefault(event.worker, []).append(event.moment)
    warm = max(sorted(times[:warm_batches][-1] for times in moments.values())[:workers])
    images = sum(event.images for event in events if event.moment > warm)
    return {
        "steady_images_per_second": images / (ended - warm) if images else None,
        "steady_images": images,
        "steady_seconds": ended - warm,
    }
