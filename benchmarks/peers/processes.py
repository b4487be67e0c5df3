"""A script with worker processes. They take batches from one counter, decode ahead and write behind the network."""

import argparse
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from peers.clock import Done, done, make_durable, steady
from peers.photos import FEATURES, SIZE, Photo, block_means, decode

Run = Callable[[np.ndarray], np.ndarray]  # (batch, 224, 224, 3) uint8 → (batch, 7, 7, 512) float32
NULL_SHARD, NULL_STEP = 256, 32


def run_processes(photos: list[Photo], given: argparse.Namespace, build: Callable[..., Run], settings: dict) -> dict:
    """Run `build(weights, batch, threads)` in worker processes, with one npz per batch. Returns the report."""
    context = multiprocessing.get_context("spawn")  # the libraries start threads, so a fork would hang
    workers = settings["processes"]
    shared = context.Value("q", 0), context.Barrier(workers)
    with ProcessPoolExecutor(workers, context, _share, shared) as pool:
        futures = [pool.submit(_work, photos, given, build, settings) for _ in range(workers)]
        lists = [future.result() for future in futures]
    flat = [event for found in lists for event in found]
    assert sum(event.images for event in flat) == len(photos)
    if given.engine_only:
        rate = steady(flat, max(event.moment for event in flat), workers)
        return {"engine_images_per_second": rate["steady_images_per_second"], "settings": settings}
    rate = steady(flat, make_durable(given.out), workers)
    return rate | {"features_shape": FEATURES, "same_pixels": True, "settings": settings}


def _share(counter, barrier) -> None:
    global _counter, _barrier  # these can be passed to a process only when it starts
    _counter, _barrier = counter, barrier


def _work(photos: list[Photo], given: argparse.Namespace, build: Callable[..., Run], settings: dict) -> list[Done]:
    """The work of one process. The barrier starts all together, and keeps one process from taking two of these jobs."""
    batch = settings["batch"]
    run = build(given.weights, batch, settings["threads"])
    found: list[Done] = []
    if given.engine_only:
        pixels = np.stack([decode(photo.path) for photo in photos])
        _barrier.wait()
        for start in _starts(len(photos), batch):
            count = len(pixels[start : start + batch])
            run(_padded(pixels[start : start + batch], batch))
            found.append(done(count))
        return found

    with ThreadPoolExecutor(settings["decode_threads"]) as decoding, ThreadPoolExecutor(1) as writing:
        _barrier.wait()
        starts = _starts(len(photos), batch)

        def next_batch() -> tuple[int, list] | None:
            start = next(starts, None)
            if start is None:
                return None
            return start, [decoding.submit(decode, photo.path) for photo in photos[start : start + batch]]

        writes = []
        upcoming = next_batch()
        while upcoming:
            start, futures = upcoming
            pixels = np.stack([future.result() for future in futures])
            upcoming = next_batch()
            features = run(_padded(pixels, batch))[: len(pixels)]
            found.append(done(len(pixels)))
            writes.append(writing.submit(_write, given.out, start, features, photos[start : start + batch]))
        for write in writes:
            write.result()
    return found


def _starts(total: int, batch: int) -> Iterator[int]:
    """The start indices of the batches that this process takes."""
    while True:
        with _counter.get_lock():
            start = _counter.value
            _counter.value += batch
        if start >= total:
            return
        yield start


def _padded(pixels: np.ndarray, batch: int) -> np.ndarray:
    """Pad the last batch. With a fixed shape the engines need no second plan."""
    if len(pixels) == batch:
        return pixels
    return np.concatenate([pixels, np.zeros((batch - len(pixels), SIZE, SIZE, 3), np.uint8)])


def _write(out: Path, start: int, features: np.ndarray, photos: list[Photo]) -> None:
    np.savez(
        out / f"{start:06d}.npz",
        features=features,
        labels=[photo.label for photo in photos],
        paths=[photo.path for photo in photos],
    )


def null_pool(photos: list[Photo], given: argparse.Namespace) -> dict:
    """The best simple script without a network: a pool of two, where each task decodes 256 images into one npz."""
    processes = given.processes or 2
    shard = given.batch or NULL_SHARD
    tasks = [(given.out, start, photos[start : start + shard]) for start in range(0, len(photos), shard)]
    with multiprocessing.Pool(processes) as pool:
        lists = list(pool.imap_unordered(_null_shard, tasks))
    events = [event for found in lists for event in found]
    rate = steady(events, make_durable(given.out), len({event.worker for event in events}))
    settings = {"batch": shard, "processes": processes, "threads": 1, "files": f"an npz for {shard} images"}
    return rate | {"features_shape": FEATURES, "same_pixels": True, "settings": settings}


def _null_shard(task: tuple[Path, int, list[Photo]]) -> list[Done]:
    out, start, photos = task
    features = np.empty((len(photos), *FEATURES), np.float32)
    events = []
    for first in range(0, len(photos), NULL_STEP):
        for number, photo in enumerate(photos[first : first + NULL_STEP], first):
            features[number] = block_means(decode(photo.path))[0]
        events.append(done(number + 1 - first))
    _write(out, start, features, photos)
    return events
