"""How fast does the server answer, and how much of the engine's rate is left? The last line is one JSON object.

    python benchmarks/serving.py --photos FOLDER --weights vgg16_notop.weights.h5
    python benchmarks/serving.py --image-size 32 --seconds 5 --rounds 1
    python benchmarks/serving.py --rounds 0 --soak 600

Clients post one JPEG a request, and post it again as soon as they have the answer (load.py). Each round measures the engine
alone (pixels in memory, one single-threaded process per slot of the server), the server, and a plain FastAPI application that
calls Keras' `predict` (peers/fastapi_keras.py), at each concurrency. Figures are medians of the rounds; p50, p95 and p99 are
those of all requests of the rounds. Clients run on the same cores. `--soak` posts with 8 clients for some seconds, and tells the
memory of the server. Without `--photos` the JPEGs are generated, and without `--weights` the weights are random.
"""

import argparse
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from load import Load, client, figures, form, load  # noqa: E402
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
    photos(folder / "images", 24, given.photos)
    words = [sys.executable, str(PROJECT / "flows" / "pipeline.py"), "--images", str(folder / "images")]
    words += ["--store", str(folder / "store"), "--weights", str(given.weights), "--head", "mlp", "--epochs", "2"]
    words += ["--image-size", str(given.image_size)]
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
def ours(store: Path, given: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """The address and the process of our server."""
    words = [sys.executable, "-m", "serving", "--store", str(store), "--port", "0", "--engine", given.engine]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(words, cwd=PROJECT, stderr=log)
        try:
            while not (found := re.search(r"at (http://\S+)", _text(log))):
                if process.poll() is not None:
                    raise RuntimeError(_text(log))
                time.sleep(0.1)
            yield f"{found[1]}/predict", process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _text(log) -> str:
    return os.pread(log.fileno(), 100_000, 0).decode()


@contextmanager
def peer(store: Path, given: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """The address and the process of the peer."""
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
        yield f"{url}/predict", process.pid
    finally:
        process.terminate()
        process.wait()


def resident_mb(process: int) -> tuple[float, float]:
    """The memory of a server, and of its children together, in MB."""
    parents, memory = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            lines = (folder / "status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            parents[int(folder.name)] = int(fields["PPid"])
            memory[int(folder.name)] = int(fields.get("VmRSS", "0").split()[0]) / 1024
    return memory[process], sum(memory[each] for each, parent in parents.items() if parent == process)


def soak(store: Path, body: bytes, given: argparse.Namespace) -> dict:
    """The memory of the server and of its children under load, once a second. The slope is that of the second half."""
    with ours(store, given) as (url, pid):
        load(url, body, 8, 1)  # every child has computed a batch
        times, samples = [], []
        with ThreadPoolExecutor(1) as thread:
            began, running = time.monotonic(), thread.submit(load, url, body, 8, given.soak)
            while not running.done():
                times.append((time.monotonic() - began) / 60)
                samples.append(resident_mb(pid))
                time.sleep(1)
            found = running.result()
    half = len(times) // 2
    slopes = np.polyfit(times[half:], samples[half:], 1)[0] if len(times) - half > 2 else (0.0, 0.0)
    return {
        "soak_seconds": round(60 * times[-1], 1),
        "soak_requests": len(found.seconds),
        **{
            f"soak_{name}": {
                "start_mb": round(samples[0][index], 1),
                "end_mb": round(samples[-1][index], 1),
                "mb_per_minute": round(float(slopes[index]), 3),
            }
            for index, name in enumerate(("server", "children"))
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=os.environ.get("PHOTOS"))
    parser.add_argument("--weights", default=os.environ.get("VGG16_WEIGHTS", "random"))
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seconds", type=float, default=30.0, help="per concurrency")
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=3, help="0 leaves out the rates")
    parser.add_argument(
        "--soak", type=float, default=0, help="seconds of load for the memory of the server; 0 leaves it out"
    )
    given = parser.parse_args()
    levels = [int(text) for text in given.concurrency.split(",")]
    with tempfile.TemporaryDirectory() as name:
        store = train(Path(name), given)
        files = sorted((Path(name) / "images").rglob("*.jpg"))
        picture = sorted(files, key=lambda path: path.stat().st_size)[len(files) // 2].read_bytes()
        result = {"client": client(), "jpeg_kb": round(len(picture) / 1000, 1)}
        if given.rounds:
            result |= measure(store, files, picture, levels, given)
        if given.soak:
            result |= soak(store, form("files", picture), given)
        print(json.dumps(result))


def measure(store: Path, files: list[Path], picture: bytes, levels: list[int], given: argparse.Namespace) -> dict:
    spec = open_head(place(store)).spec
    engine = choose(given.engine, spec, bool(visible_gpus()), known_rates(spec))
    slots = placement(None, engine, spec).slots
    alone: list[float] = []
    found: dict[str, dict[int, list[Load]]] = {kind: {level: [] for level in levels} for kind in ("ours", "peer")}
    for _ in range(given.rounds):
        alone.append(engine_alone(store, files, engine, slots, given.seconds))
        say(f"engine alone: {alone[-1]:.2f} images/s")
        for kind, start, field in (("ours", ours, "files"), ("peer", peer, "file")):
            with start(store, given) as (url, _):
                for level in levels:
                    one = load(url, form(field, picture), level, given.seconds)
                    found[kind][level].append(one)
                    say(f"{kind}, {level} clients: {one.requests_per_second:.2f} requests/s")
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
