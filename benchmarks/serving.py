"""How fast does the server answer, and how much of the engine's rate is left? The last line is one JSON object.

    python benchmarks/serving.py --photos FOLDER --weights vgg16_notop.weights.h5
    python benchmarks/serving.py --images 12 --seconds 5 --rounds 1 --concurrency 1,8

Clients post one JPEG a request, and post the next one as soon as they have the answer. Each round measures the engine alone
(pixels in memory, one single-threaded process per slot of the server), the server, and a plain FastAPI application that calls
Keras' `predict` (peers/fastapi_keras.py), at each concurrency. Figures are medians of the rounds; p50, p95 and p99 are those
of all requests of the rounds. Clients run on the same cores. Without `--photos` the JPEGs are generated.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from watched_run import photos  # noqa: E402

from storage.backend.paths import place  # noqa: E402
from vision.engines.rates import known_rates  # noqa: E402
from vision.engines.selection import choose  # noqa: E402
from workers.devices import Slot, placement, visible_gpus  # noqa: E402
from workers.jobs.opened_head import open_head  # noqa: E402
from workers.jobs.spaces import computable_space  # noqa: E402


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def train(folder: Path, given: argparse.Namespace) -> Path:
    """A store with a head of two classes, trained on a few photos."""
    photos(folder / "images", max(24, given.images), given.photos)
    words = [sys.executable, str(PROJECT / "flows" / "pipeline.py"), "--images", str(folder / "images")]
    words += ["--store", str(folder / "store"), "--weights", str(given.weights), "--head", "mlp", "--epochs", "2"]
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"}
    subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=True)
    return folder / "store"


def engine_alone(store: Path, files: list[Path], name: str, slots: tuple[Slot, ...], seconds: float) -> float:
    """Images per second of the engine on pixels in memory, one process per slot."""
    context = multiprocessing.get_context("spawn")
    barrier, counts = context.Barrier(len(slots)), context.Queue()
    processes = []
    for slot in slots:
        before = {variable: os.environ.get(variable) for variable in slot.environment}
        os.environ.update(slot.environment)  # libraries read it when a process starts
        given = (str(store), files, name, slot, seconds, barrier, counts)
        processes.append(context.Process(target=_compute, args=given))
        processes[-1].start()
        for variable, value in before.items():
            os.environ.pop(variable) if value is None else os.environ.update({variable: value})
    rates = [counts.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    return sum(rates)


def _compute(store: str, files: list[Path], name: str, slot: Slot, seconds: float, barrier, counts) -> None:
    from vision.engines import load_engine
    from vision.pixels.decode import decode

    spec = open_head(place(store)).spec
    engine = load_engine(
        name, spec, computable_space(place(store), spec).weights, slot.threads, None, slot.largest_batch
    )
    one = np.stack([decode(path.read_bytes(), spec.image_size) for path in files])
    pixels = np.resize(one, (engine.batch_size, *one.shape[1:]))
    barrier.wait()
    began, images = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        engine.features(pixels)
        images += len(pixels)
    counts.put(images / (time.perf_counter() - began))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@contextmanager
def ours(store: Path, given: argparse.Namespace) -> Iterator[str]:
    words = [sys.executable, "-m", "serving", "--store", str(store), "--port", "0", "--engine", given.engine]
    process = subprocess.Popen(words, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    try:
        found = next(filter(None, (re.search(r"at (http://\S+)", line) for line in process.stderr)))
        yield f"{found[1]}/predict"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


@contextmanager
def peer(store: Path, given: argparse.Namespace) -> Iterator[str]:
    head = open_head(place(store))
    weights = "" if given.weights == "random" else str(Path(given.weights).absolute())
    environment = os.environ | {"SIZE": str(head.spec.image_size), "WEIGHTS": weights, "HEAD": str(head.model.parent)}
    url = f"http://127.0.0.1:{free_port()}"
    words = [
        "-m",
        "uvicorn",
        "--app-dir",
        str(PROJECT / "benchmarks"),
        "peers.fastapi_keras:app",
        "--log-level",
        "error",
    ]
    command = [sys.executable, *words, "--port", url.rpartition(":")[2]]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                httpx.get(url, trust_env=False)
                break
            except httpx.TransportError:
                assert process.poll() is None, "the peer did not start"
                time.sleep(0.2)
        yield f"{url}/predict"
    finally:
        process.terminate()
        process.wait()


async def load(
    url: str, pictures: list[bytes], concurrency: int, seconds: float, field: str
) -> tuple[float, list[float]]:
    """Requests per second, and the seconds of each request, after as many requests to warm up as there are clients."""
    took: list[float] = []
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(timeout=300, trust_env=False, limits=limits) as client:

        async def ask(number: int) -> None:
            files = {field: ("photo.jpg", pictures[number % len(pictures)], "image/jpeg")}
            (await client.post(url, files=files)).raise_for_status()

        async def ask_on(number: int, until: float) -> None:
            while (began := time.perf_counter()) < until:
                await ask(number)
                took.append(time.perf_counter() - began)
                number += concurrency

        await asyncio.gather(*map(ask, range(concurrency)))
        began = time.perf_counter()
        await asyncio.gather(*(ask_on(number, began + seconds) for number in range(concurrency)))
        return len(took) / (time.perf_counter() - began), took


def figures(found: list[tuple[float, list[float]]]) -> dict[str, float]:
    took = [seconds for _, each in found for seconds in each]
    percentiles = {f"p{p}_ms": round(1000 * float(np.percentile(took, p))) for p in (50, 95, 99)}
    return {
        "requests_per_second": round(statistics.median(rate for rate, _ in found), 2),
        "requests": len(took),
    } | percentiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=os.environ.get("PHOTOS"))
    parser.add_argument("--weights", default=os.environ.get("VGG16_WEIGHTS", "random"))
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30.0, help="per concurrency")
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    levels = [int(text) for text in given.concurrency.split(",")]
    with tempfile.TemporaryDirectory() as name:
        store = train(Path(name), given)
        files = sorted((Path(name) / "images").rglob("*.jpg"))[: given.images]
        print(json.dumps(measure(store, files, levels, given)))


def measure(store: Path, files: list[Path], levels: list[int], given: argparse.Namespace) -> dict:
    spec = open_head(place(store)).spec
    engine = choose(given.engine, spec, bool(visible_gpus()), known_rates(spec))
    slots = placement(None, engine, spec).slots
    pictures = [path.read_bytes() for path in files]
    alone: list[float] = []
    found: dict[str, dict[int, list]] = {kind: {level: [] for level in levels} for kind in ("ours", "peer")}
    for _ in range(given.rounds):
        alone.append(engine_alone(store, files[:24], engine, slots, given.seconds))
        say(f"engine alone: {alone[-1]:.2f} images/s")
        for kind, start, field in (("ours", ours, "files"), ("peer", peer, "file")):
            with start(store, given) as url:
                for level in levels:
                    one = asyncio.run(load(url, pictures, level, given.seconds, field))
                    found[kind][level].append(one)
                    say(f"{kind}, {level} clients: {one[0]:.2f} requests/s")
    shown = {kind: {level: figures(of) for level, of in by_level.items()} for kind, by_level in found.items()}
    best, rate = statistics.median(alone), {kind: shown[kind][levels[-1]]["requests_per_second"] for kind in shown}
    return {
        "engine": engine,
        "slots": len(slots),
        "engine_images_per_second": round(best, 2),
        **shown,
        "of_the_engine": round(rate["ours"] / best, 3),
        "of_the_peer": round(rate["ours"] / rate["peer"], 2),
    }


if __name__ == "__main__":
    main()
