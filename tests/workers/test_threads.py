"""All children of a run together have no more computing threads than there are cores, with every engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import workers.devices
from tasks.train_head import training_slots
from vision.engines.selection import ENGINES, FALLBACK, engine_class
from vision.specs import FeatureSpec
from workers.devices import Slot, engine_copies, on_cpu, placement
from workers.machine import Cores, Memory

PROJECT = Path(__file__).parents[2]
SPEC = FeatureSpec("", image_size=64)

counts = st.integers(1, 256)


@given(st.sampled_from(sorted(ENGINES)), counts, st.integers(1, 8), st.none() | st.floats(0.1, 300), st.floats(0, 1e6))
def test_an_extraction_has_at_most_one_thread_per_core(engine, physical, per_core, quota, free):
    cores = Cores(physical * per_core, physical, quota)
    slots = on_cpu(None, engine, SPEC, cores, Memory(1e6, free)).slots
    assert sum(slot.threads for slot in slots) <= cores.children <= cores.threads


@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
@pytest.mark.parametrize("threads", [8, 9, 64])
def test_children_of_gpus_share_the_cores_in_extractions_and_in_the_trainings_of_a_study(gpus, threads, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus))))
    monkeypatch.setattr(workers.devices, "cores", lambda: Cores(threads, threads))
    for slots in (placement(None, "tensorflow", SPEC).slots, training_slots()):
        assert len(slots) == gpus
        assert sum(slot.threads for slot in slots) <= threads


def test_without_a_gpu_trainings_take_turns_and_have_every_core(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(workers.devices, "cores", lambda: Cores(16, 8))
    assert training_slots() == (Slot(None, 16),)


@pytest.fixture
def fresh():
    """Forgets which copies this process has placed."""
    engine_copies.cache_clear()
    yield
    engine_copies.cache_clear()


@pytest.mark.parametrize(
    ("free", "threads", "copies", "batch"), [(1e6, 8, 4, None), (1e6, 3, 3, None), (3_200, 8, 3, 6), (0, 8, 1, 6)]
)
def test_a_training_has_a_copy_of_its_engine_per_core_as_far_as_memory_holds_them(
    fresh, monkeypatch, free, threads, copies, batch
):
    monkeypatch.setattr(workers.devices, "cores", lambda: Cores(8, 4))
    monkeypatch.setattr(workers.devices, "memory", lambda: Memory(1e6, free))
    spec = FeatureSpec("", image_size=224)
    placed = engine_copies("mnn", spec, threads)
    assert placed.slots == (Slot(None, 1, batch),) * copies
    monkeypatch.setattr(workers.devices, "memory", lambda: Memory(1e6, 0.0))
    assert engine_copies("mnn", spec, threads) == placed, "the loaded engine does not count as taken memory"


COMPUTING = """
import json, os, sys, time
import numpy as np
from vision.engines import load_engine
from vision.specs import FeatureSpec
engine = load_engine(sys.argv[1], FeatureSpec("", image_size=64), "random", int(sys.argv[2]))
pixels = np.random.default_rng(0).integers(0, 256, (engine.batch_size, 64, 64, 3), np.uint8)
engine.features(pixels)

def ticks():
    fields = {}
    for name in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{name}/stat") as file:
            fields[name] = sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
    return fields

began, before = time.perf_counter(), ticks()
while sum(ticks().values()) - sum(before.values()) < 60:
    engine.features(pixels)
spent = [now - before.get(name, 0) for name, now in ticks().items()]
print(json.dumps({"threads": spent, "parallel": sum(spent) / os.sysconf("SC_CLK_TCK") / (time.perf_counter() - began)}))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list threads")
@pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=pytest.mark.slow if name == FALLBACK else ()) for name in ENGINES]
)
def test_an_engine_computes_in_one_thread_at_a_time_in_a_slot_of_one(engine, tmp_path):
    """Reads the CPU time of every thread while batches are inferred, whatever library made the thread."""
    if obstacle := engine_class(engine).obstacle(SPEC):
        pytest.skip(obstacle)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), **Slot(None, 1).environment}
    done = subprocess.run(
        [sys.executable, "-c", COMPUTING, engine, "1"], env=environment, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parallel"] < 1.2
    if engine != FALLBACK:  # its batches pass from the thread of Python to one of its own
        assert sum(spent > 0.1 * sum(found["threads"]) for spent in found["threads"]) == 1
