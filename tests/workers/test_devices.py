import os
import subprocess
import sys
from pathlib import Path

import pytest

import workers.devices
from workers.devices import Slot, available_cores, slots, visible_gpus

PROJECT = Path(__file__).parents[2]


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
    assert [slot.gpu for slot in slots(None)] == visible.split(",")
    assert len(slots(None)) == count
    assert {slot.threads for slot in slots(None)} == {max(1, available_cores() // count)}


def test_more_workers_than_gpus_share_them_evenly(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [slot.gpu for slot in slots(4)] == ["0", "1", "0", "1"]
    assert all(slot.threads >= 1 for slot in slots(100))


@pytest.mark.parametrize("workers", [None, 1, 5])
def test_without_a_gpu_every_child_has_one_thread_however_many_there_are(workers, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert slots(workers) == (Slot(None, 1),) * (workers or available_cores())


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("6400000 100000", 8),
        ("no quota at all", 8),
        ("", 8),
    ],
)
def test_the_quota_of_the_control_group_cuts_the_cores(quota, cores, tmp_path, monkeypatch):
    """A temporary file replaces the real one, which only the kernel writes."""
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr(workers.devices, "Path", lambda path: tmp_path / Path(path).name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert available_cores() == cores


def test_a_system_without_control_groups_gives_every_core(tmp_path, monkeypatch):
    monkeypatch.setattr(workers.devices, "Path", lambda path: tmp_path / "no such file")
    assert available_cores() == len(os.sched_getaffinity(0))


def test_a_process_bound_to_one_core_has_one():
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    script += "from workers.devices import available_cores; print(available_cores())"
    asked = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "1"


def test_asking_for_devices_loads_no_tensorflow():
    script = "import sys; from workers.devices import slots; slots(None); print('tensorflow' in sys.modules)"
    asked = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "False"
