import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.engines.selection import ENGINES, engine_class
from vision.specs import FeatureSpec
from workers.devices import BATCH_PARTS, USABLE, available_cores, on_cpu, placement, visible_gpus
from workers.machine import Cores, Memory

PROJECT = Path(__file__).parents[2]
SPEC = FeatureSpec("")
PLENTY = Memory(1e6, 1e6)


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("", []),
        ("-1", []),
        ("0", ["0"]),
        ("1,3", ["1", "3"]),
        (" 0 , 2 ", ["0", "2"]),
        ("GPU-8f3a,GPU-77b1", ["GPU-8f3a", "GPU-77b1"]),
        ("0,-1,1", ["0"]),  # CUDA ignores everything after an invalid index
    ],
)
def test_the_gpus_are_those_that_cuda_visible_devices_leaves(visible, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == gpus


@pytest.mark.skipif(Path("/proc/driver/nvidia/gpus").is_dir(), reason="this machine has NVIDIA GPUs")
def test_a_machine_without_an_nvidia_driver_has_no_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == []


@pytest.mark.parametrize(("visible", "count"), [("0", 1), ("0,1", 2), ("a,b,c,d", 4)])
def test_every_gpu_has_one_slot_of_its_own(visible, count, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    slots = placement(None, "tensorflow", SPEC).slots
    assert [slot.gpu for slot in slots] == visible.split(",")
    assert {slot.threads for slot in slots} == {max(1, available_cores() // count)}


def test_more_workers_than_gpus_share_them_evenly(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [slot.gpu for slot in placement(4, "tensorflow", SPEC).slots] == ["0", "1", "0", "1"]
    assert all(slot.threads >= 1 for slot in placement(100, "tensorflow", SPEC).slots)


@pytest.mark.parametrize("workers", [None, 1, 5])
def test_without_a_gpu_every_child_has_one_thread_however_many_there_are(workers, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert {slot.threads for slot in placement(workers, "tensorflow", SPEC).slots} == {1}
    assert len(on_cpu(workers, "mnn", SPEC, Cores(8, 8), PLENTY).slots) == (workers or 8)


def test_a_process_bound_to_one_core_has_one():
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    script += "from workers.devices import available_cores; print(available_cores())"
    asked = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "1"


def test_asking_for_devices_loads_no_tensorflow():
    script = "import sys; from vision.specs import FeatureSpec; from workers.devices import placement; placement(None, 'mnn', FeatureSpec('')); print('tensorflow' in sys.modules)"
    asked = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "False"


engines = st.sampled_from(sorted(ENGINES))
sizes = st.sampled_from([32, 96, 224, 320, 512])
megabytes = st.floats(0, 1e6)


@given(engines, sizes, st.integers(1, 256), megabytes)
def test_children_never_need_more_memory_than_is_free_but_for_the_only_one(engine, size, count, free):
    spec = FeatureSpec("", image_size=size)
    placed = on_cpu(None, engine, spec, Cores(count, count), Memory(1e6, free))
    kind = engine_class(engine)
    batch = placed.slots[0].largest_batch or kind.usual_batch(spec)
    need = kind.memory_mb(spec, batch)
    assert len(set(placed.slots)) == 1
    assert 1 <= len(placed.slots) <= count
    fits = len(placed.slots) * need <= USABLE * free
    assert fits != placed.is_short
    assert fits or len(placed.slots) == 1


@given(engines, sizes, st.integers(1, 256), megabytes)
def test_no_child_is_left_out_where_a_smaller_batch_makes_room(engine, size, count, free):
    spec, kind = FeatureSpec("", image_size=size), engine_class(engine)
    placed = on_cpu(None, engine, spec, Cores(count, count), Memory(1e6, free))
    whole = kind.usual_batch(spec)
    smallest = kind.memory_mb(spec, max(1, whole // BATCH_PARTS[-1]))
    assert len(placed.slots) == max(1, min(count, int(USABLE * free / smallest)))
    if placed.slots[0].largest_batch is not None and not placed.is_short:
        larger = kind.memory_mb(spec, min(whole, 2 * placed.slots[0].largest_batch + 1))
        assert len(placed.slots) * larger > USABLE * free


@given(engines, st.integers(1, 64), st.integers(1, 64), megabytes)
def test_the_number_that_is_asked_for_is_taken_with_a_warning_where_memory_is_short(engine, workers, count, free):
    placed = on_cpu(workers, engine, SPEC, Cores(count, count), Memory(1e6, free))
    smallest = engine_class(engine).memory_mb(SPEC, max(1, engine_class(engine).usual_batch(SPEC) // BATCH_PARTS[-1]))
    assert len(placed.slots) == workers
    assert placed.is_short == (int(USABLE * free / smallest) < workers)
    assert ("warning: " in placed.summary) == placed.is_short


GB = 1024
LINES = [
    ((None, Cores(4, 4), Memory(24 * GB, 20 * GB)), "4 workers: one per core"),
    ((None, Cores(1, 1), Memory(24 * GB, 20 * GB)), "1 worker: one per core"),
    ((None, Cores(8, 4), Memory(24 * GB, 20 * GB)), "4 workers: one per core, which run 8 threads"),
    ((None, Cores(8, 8, 2.5), Memory(24 * GB, 20 * GB)), "2 workers: the control group grants 2.5 of 8 cores"),
    ((3, Cores(8, 8), Memory(24 * GB, 20 * GB)), "3 workers: as `workers` requests"),
    (
        (None, Cores(2, 2), Memory(24 * GB, 2 * GB)),
        "2 workers: memory 2.0 of 24 GB free allows 2 at 0.8 GB each, with batches of 6 images instead of 24",
    ),
    (
        (None, Cores(64, 64), Memory(24 * GB, 3.1 * GB)),
        "3 workers: memory 3.1 of 24 GB free allows 3 at 0.8 GB each, with batches of 6 images instead of 24",
    ),
    (
        (None, Cores(2, 2), Memory(2 * GB, 0.5 * GB)),
        "1 worker: warning: memory 0.5 of 2 GB free holds 0 at 0.8 GB each, with batches of 6 images instead of 24; "
        "the kernel may kill some of them",
    ),
    (
        (8, Cores(2, 2), Memory(8 * GB, 4 * GB)),
        "8 workers: warning: memory 4.0 of 8 GB free holds 4 at 0.8 GB each, with batches of 6 images instead of 24; "
        "the kernel may kill some of them",
    ),
]


@pytest.mark.parametrize(("given", "line"), LINES, ids=[line[:40] for _, line in LINES])
def test_a_run_says_in_one_line_why_it_has_so_many_workers(given, line):
    workers, cores, memory = given
    assert on_cpu(workers, "mnn", SPEC, cores, memory).summary == line
