"""A run in a process of its own, and what is seen from outside: its shards, logs, children, and what the server knows."""

import json
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np

from storage.layout import Store
from storage.manifest.versions import latest_version
from storage.shards.shard import Shard
from tests.flows.conftest import PROJECT, TINY


def features(store: Path, fingerprint: str) -> dict[bytes, np.ndarray]:
    where = Store(store, fingerprint)
    version = latest_version(where)
    arrays = {name: Shard(where, ref).read() for name, ref in version.shards.items()}
    return {row["digest"]: arrays[row["shard"]][row["row"]] for row in version.read_rows(where).to_pylist()}


def assert_same_features(one: dict[bytes, np.ndarray], other: dict[bytes, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[digest], other[digest]) for digest in one)


def start(environment: dict[str, str], *arguments: str | Path) -> subprocess.Popen:
    """The command in a process group of its own, so that the whole of it can be killed."""
    return subprocess.Popen(
        [sys.executable, PROJECT / "flows" / "pipeline.py", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


# A few seconds of work for a test to step into, on however fast an engine.
SLOWER = (*TINY, "--chunk-size", "8", "--image-size", "64")


def wait_until(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def shards_in(store: Path) -> int:
    return len(list(store.glob("*/shards/*/*.parquet")))


def names_of_shards(store: Path) -> set[str]:
    return {path.name for path in store.glob("*/shards/*/*.parquet")}


def trained_logs(store: Path) -> list[Path]:
    """epochs.csv of every training that has not come to its head."""
    return [path for path in store.glob("heads/*/logs/epochs.csv") if not (path.parents[1] / "head.json").exists()]


def children_of(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):  # it may end while we look
            if f"PPid:\t{pid}\n" in status.read_text():
                found.append(int(status.parent.name))
    return found


def ask(server: str, what: str, **flow_run: str) -> list[dict]:
    """What the server knows of the flow runs with this id, or this in their name."""
    ((field, value),) = flow_run.items()
    which = {"any_": [value]} if field == "id" else {"like_": value}
    body = json.dumps({"limit": 200, "flow_runs": {field: which}}).encode()
    request = urllib.request.Request(
        f"{server}/{what}/filter", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())
