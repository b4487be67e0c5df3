"""One run of the pipeline, and what its children did meanwhile, as Linux tells in /proc."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

PROJECT = Path(__file__).parents[1]
LOOK_SECONDS = 0.05


@dataclass
class WatchedRun:
    """line: the JSON line. cpu_seconds: of all processes of the run. busy_until: pid of each child → when it last computed."""

    line: dict
    seconds: float
    cpu_seconds: float
    busy_until: dict[int, float]


def photos(folder: Path, count: int, given: Path | None) -> Path:
    """A folder of two classes with `count` photos: links to the given ones, or JPEGs of gradients and noise."""
    sources = sorted(given.rglob("*.jpg"))[:count] if given else []
    if given and len(sources) < count:
        raise SystemExit(f"{given} has {len(sources)} photos, {count} are needed")
    draw = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("one", "two")[number % 2] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if sources:
            shutil.copyfile(sources[number], path)
        else:
            coarse = draw.integers(0, 256, (25, 32, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def run(images: Path, store: Path, arguments: list[str], environment: dict[str, str]) -> WatchedRun:
    """`flows/pipeline.py --extract-only` on a new store."""
    shutil.rmtree(store, ignore_errors=True)
    command = [sys.executable, str(PROJECT / "flows" / "pipeline.py"), "--extract-only"]
    command += ["--images", str(images), "--store", str(store), *arguments]
    before, began = os.times(), time.time()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    ticks: dict[int, int] = {}
    busy_until: dict[int, float] = {}
    while process.poll() is None:
        now = time.time()
        for pid, spent in _children(process.pid):
            if spent != ticks.get(pid):
                ticks[pid], busy_until[pid] = spent, now
        time.sleep(LOOK_SECONDS)
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(err)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return WatchedRun(json.loads(out.splitlines()[-1]), time.time() - began, cpu, busy_until)


def _children(parent: int) -> Iterator[tuple[int, int]]:
    """The children that compute, and their CPU time in ticks."""
    for name in os.listdir("/proc"):
        try:
            if not name.isdigit() or b"workers.children.child" not in Path(f"/proc/{name}/cmdline").read_bytes():
                continue
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            yield int(name), int(fields[11]) + int(fields[12])
