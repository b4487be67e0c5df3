"""Does it keep working when a process dies, and how soon is a new image in the store? The last line is one JSON object.

    python benchmarks/deployment.py --arrivals 20 --bursts 20
    python benchmarks/deployment.py --crashes 3
    python benchmarks/deployment.py --together 5

`python -m deployments up` starts everything, on tiny pictures and the demo's backbone (VGG16, 32 pixels, random
weights).

`--arrivals`: copies this many pictures into the folder, one at a time, while nothing runs. Measures the seconds until a
version contains each.
`--bursts`: copies this many bursts of 50 pictures. Counts the pictures that are lost.
`--crashes`: kills the worker, the server, the flow and all three, this many times each, while chunks are extracted.
`--together`: starts a scheduled, a triggered and a manual run at once, this many times.

Set `PREFECT_SERVER_DATABASE_CONNECTION_URL` to use another database than SQLite.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

from deployments.supervisor import marked  # noqa: E402
from storage.layout import Store  # noqa: E402
from storage.manifest.file_table import OK  # noqa: E402
from storage.manifest.space import spaces  # noqa: E402
from storage.manifest.versions import latest_version, version_numbers  # noqa: E402
from tests import toy  # noqa: E402

SETTINGS = ("--weights", "random", "--image-size", "32", "--head", "mlp", "--epochs", "1", "--chunk-size", "16")
VICTIMS = {"worker": ("worker",), "server": ("server",), "flow": ("flow",), "all": ("worker", "server", "flow")}
# The longest wait. A server starts within it, even on a busy machine. A picture that takes longer counts as lost.
PATIENCE = 600.0


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def until(what: str, holds: Callable[[], object], seconds: float = PATIENCE, every: float = 0.1) -> float:
    """Wait until a condition holds, and return the seconds that took. Raises TimeoutError after `seconds`."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)
    return time.monotonic() - began


@dataclass(frozen=True)
class Stand:
    """A separate installation: its folders, and the commands as a user types them."""

    folder: Path
    port: int

    @property
    def images(self) -> Path:
        return self.folder / "photos"

    @property
    def home(self) -> Path:
        return self.folder / "prefect" / "extract-and-train"

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API_")}
        return kept | {"PREFECT_HOME": str(self.folder / "prefect"), "DO_NOT_TRACK": "1", "COLUMNS": "500"}

    def call(
        self, *words: str, environment: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", *words],
            env=environment or self.environment,
            cwd=cwd or self.folder,
            capture_output=True,
            text=True,
        )

    def must(self, *words: str) -> str:
        done = self.call(*words)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}\n{self.logs()}")
        return done.stdout

    def ask(self, method: str, path: str, **body) -> list | dict:
        """The answer of the server's API."""
        return json.loads(self.must("prefect", "api", method, path, "--data", json.dumps(body)))

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in self.home.glob("logs/*.log"))

    def runs(self, *states: str) -> list[dict]:
        """Runs of extract-and-train in these states (all that began, if none is named), oldest first."""
        words = ["prefect", "flow-run", "ls", "--flow-name", "extract-and-train", "--limit", "200", "-o", "json"]
        found = json.loads(self.must(*words, *(word for state in states for word in ("--state-type", state))))
        return sorted(found, key=lambda run: run["expected_start_time"] or "")

    @property
    def store(self) -> Store | None:
        root = self.folder / "store"
        return next(iter(spaces(root)), None) if root.is_dir() else None

    def contained(self) -> set[bytes]:
        """The paths of the images whose features the newest version holds."""
        version = latest_version(self.store) if self.store else None
        if version is None or self.store is None:
            return set()
        return {
            row["path"]
            for row in version.read_files(self.store).select(["path", "status"]).to_pylist()
            if row["status"] == OK
        }

    def paths(self) -> set[bytes]:
        return {os.fsencode(path.relative_to(self.images)) for path in self.images.rglob("*.png")}

    def versions(self) -> list[int]:
        return version_numbers(self.store) if self.store else []

    def shards(self) -> dict[str, list[bytes]]:
        """The digests in each existing shard, whether or not a version lists it."""
        root = self.store.shards if self.store else self.folder / "none"
        return {
            path.name: pq.read_table(path, columns=["digest"])["digest"].to_pylist() for path in root.rglob("*.parquet")
        }

    def process(self, name: str) -> list[int]:
        """The process id of a service, or those of the pipeline's runs."""
        if name != "flow":
            return [json.loads((self.home / "state.json").read_text())["pids"][name]]
        return [pid for pid in marked(self.home) if is_run(pid)]

    def is_idle(self) -> bool:
        return not self.process("flow")

    def kill(self, name: str) -> None:
        for pid in self.process(name):
            os.kill(pid, signal.SIGKILL)


def is_run(pid: int) -> bool:
    """Whether a process is a run that a worker started."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word in (b"prefect.engine", b"prefect.flow_engine") for word in words)


@contextmanager
def stood_up(folder: Path, per_class: int = 20, more: Sequence[str] = ()) -> Iterator[Stand]:
    """Start everything on a few pictures, and take it down when the block ends. more: further arguments of `up`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        stand = Stand(folder, probe.getsockname()[1])
    toy.pictures(stand.images, per_class=per_class)
    words = ["--images", str(stand.images), "--store", str(folder / "store"), *SETTINGS, "--port", str(stand.port)]
    try:
        stand.must("deployments", "up", *words, *more)
        yield stand
    finally:
        stand.call("deployments", "down")


def first_version(stand: Stand) -> None:
    stand.must("prefect", "deployment", "run", "extract-and-train", "--watch")
    until("the first version", lambda: stand.contained() == stand.paths())


def new_picture(stand: Stand, number: int) -> bytes:
    """Copy a picture into the folder from elsewhere, as people do. Returns its path in the folder."""
    with tempfile.TemporaryDirectory(dir=stand.folder) as elsewhere:
        source = toy.picture(Path(elsewhere) / "new.png", seed=100_000 + number)
        target = stand.images / ("cats", "dogs")[number % 2] / f"new-{number:05d}.png"
        shutil.copyfile(source, target)
    return os.fsencode(target.relative_to(stand.images))


def arrivals(stand: Stand, count: int) -> dict:
    """Measure the seconds from the copy of a picture to a version that contains it, and to its head, while nothing runs.

    The stages add up to the seconds to the head.
    """
    seconds, parts = [], []
    for number in range(count):
        until("no run", stand.is_idle)
        time.sleep(2)
        path, closed = new_picture(stand, number), time.time()
        seconds.append(until(f"{path!r} in a version", lambda path=path: path in stand.contained(), every=0.05))
        until("no run", stand.is_idle)
        parts.append(stages(stand, closed))
        say(f"arrival {number + 1} of {count}: {seconds[-1]:.1f} s; {json.dumps(parts[-1])}")
    heads = [sum(part.values()) for part in parts]
    return {
        "arrivals": count,
        "p50_seconds": round(statistics.median(seconds), 2),
        "p95_seconds": round(sorted(seconds)[max(0, -(-95 * count // 100) - 1)], 2),
        "largest_seconds": round(max(seconds), 2),
        "p50_seconds_to_head": round(statistics.median(heads), 2),
        "p50_stages": {name: round(statistics.median([part[name] for part in parts]), 2) for name in parts[0]},
    }


def stages(stand: Stand, closed: float) -> dict[str, float]:
    """Where the seconds of the last arrival went, from the moment at which its file was closed to its head."""
    (event,) = stand.ask("POST", "/events/filter", filter={"event": {"name": ["images.arrived"]}}, limit=1)["events"]
    deployment = {"deployments": {"name": {"any_": ["extract-and-train"]}}}
    ended = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    (run,) = stand.ask("POST", "/flow_runs/filter", sort="END_TIME_DESC", limit=1, **deployment, **ended)
    states = {
        state["type"]: state["timestamp"] for state in stand.ask("GET", f"/flow_run_states/?flow_run_id={run['id']}")
    }
    logs = stand.ask(
        "POST", "/logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}}, sort="TIMESTAMP_ASC", limit=200
    )
    assert stand.store is not None
    moments = {
        "closed": closed,
        "quiet": seconds_of(event["occurred"]),
        "trigger": seconds_of(run["created"]),
        "worker": seconds_of(states["PENDING"]),
        "process": seconds_of(states["RUNNING"]),
        "list": seconds_of(next(log["timestamp"] for log in logs if log["message"].startswith("extracting "))),
        "extract, commit": max(path.stat().st_mtime for path in stand.store.versions.iterdir()),
        "train": max(path.stat().st_mtime for path in stand.store.heads.glob("*/head.json")),
    }
    return {
        name: round(moment - before, 2)
        for (name, moment), before in zip(list(moments.items())[1:], moments.values(), strict=False)
    }


def seconds_of(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


def bursts(stand: Stand, count: int, files: int = 50, seed: int = 0) -> dict:
    """Copy bursts of files. Each comes when a version contains the one before, or within 20 s of copying it."""
    moments, lost = random.Random(seed), 0
    for burst in range(count):
        arrived = {new_picture(stand, 10_000 + burst * files + number) for number in range(files)}
        if moments.random() < 0.5:
            time.sleep(moments.uniform(0, 20))  # the next burst comes while a run works on this one
            continue
        until(f"burst {burst}", lambda arrived=arrived: arrived <= stand.contained())
        say(f"burst {burst + 1} of {count} is in version {stand.versions()[-1]}")
    try:
        until("all bursts", lambda: stand.paths() <= stand.contained())
    except TimeoutError:
        lost = len(stand.paths() - stand.contained())
    return {"bursts": count, "files_a_burst": files, "lost": lost}


def crash(stand: Stand, names: tuple[str, ...], number: int, images: int = 160) -> dict:
    """Kill processes while a run extracts, and record how later runs recover."""
    before = set(stand.shards())
    for index in range(images):
        new_picture(stand, 50_000 + number * images + index)
    until("a run that has written a shard", lambda: set(stand.shards()) - before and stand.process("flow"), every=0.02)
    for name in names:
        stand.kill(name)
    at_death = set(stand.shards()) - before
    began = time.monotonic()
    until("the server", lambda: stand.call("prefect", "flow-run", "ls").returncode == 0, every=1)
    stand.must("flows.reap")
    stand.must("prefect", "deployment", "run", "extract-and-train", "--watch")
    until("all images in a version", lambda: stand.paths() == stand.contained())
    seconds = time.monotonic() - began
    until("no run", stand.is_idle)
    stand.must("flows.reap")
    every = [digest for digests in stand.shards().values() for digest in digests]
    version = latest_version(stand.store) if stand.store else None
    record = {
        "killed": "+".join(names),
        "shards_at_death": len(at_death),
        "of_them_adopted": len(at_death & set(version.shards if version else ())),
        "extracted_twice": len(every) - len(set(every)),
        "left_running": len(stand.runs("RUNNING")),
        "left_pending": len(stand.runs("PENDING")),
        "seconds_to_a_version": round(seconds, 1),
    }
    say(json.dumps(record))
    return record


def together(stand: Stand, number: int) -> dict:
    """Start a manual, a scheduled and a triggered run at the same moment; all must complete."""
    known = {run["id"] for run in stand.runs()}
    new_picture(stand, 90_000 + number)
    words = [sys.executable, "-m", "prefect", "deployment", "run", "extract-and-train"]
    by_hand = [
        subprocess.Popen([*words, *more], env=stand.environment, cwd=stand.folder, stdout=subprocess.DEVNULL)
        for more in (["--watch"], ["--watch", "--start-in", "3 seconds"])
    ]
    statuses = [process.wait(PATIENCE) for process in by_hand]
    until("the picture in a version", lambda: stand.paths() <= stand.contained())
    until("no run", stand.is_idle)
    time.sleep(20)  # a run that waits for its turn tries every 15 seconds
    until("no run", stand.is_idle)
    ended = [run["state"]["type"] for run in stand.runs() if run["id"] not in known and run["start_time"]]
    versions = stand.versions()
    return {
        "statuses": statuses,
        "states": sorted(set(ended)),
        "runs": len(ended),
        "versions_follow": versions == list(range(versions[0], versions[-1] + 1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrivals", type=int, default=0)
    parser.add_argument("--bursts", type=int, default=0)
    parser.add_argument("--crashes", type=int, default=0, help="so many times each")
    parser.add_argument("--together", type=int, default=0)
    given = parser.parse_args()
    result: dict = {"database": os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL", "sqlite").partition(":")[0]}
    with tempfile.TemporaryDirectory(prefix="deployment-") as folder, stood_up(Path(folder)) as stand:
        first_version(stand)
        if given.arrivals:
            result |= arrivals(stand, given.arrivals)
        if given.bursts:
            result |= bursts(stand, given.bursts)
        if given.together:
            result["together"] = [together(stand, number) for number in range(given.together)]
        if given.crashes:
            rounds = [names for _ in range(given.crashes) for names in VICTIMS.values()]
            result["crashes"] = [crash(stand, names, number) for number, names in enumerate(rounds)]
    result["left_processes"] = len(marked(stand.home))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
