"""Cores and memory, as the folders of a made-up machine tell them."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.machine import Cores, cores, memory

GB = 2**30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def topology(*siblings: str) -> dict[str, str]:
    """One line per hardware thread."""
    return {f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": text for cpu, text in enumerate(siblings)}


@pytest.fixture
def bound(monkeypatch):
    """Bind the process to CPUs, as it seems to it."""
    return lambda cpus: monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(cpus), raising=False)


@pytest.mark.parametrize(
    ("siblings", "affinity", "physical"),
    [
        (("0", "1", "2", "3"), range(4), 4),
        (("0,2", "1,3", "0,2", "1,3"), range(4), 2),
        (("0-1", "0-1", "2-3", "2-3"), range(4), 2),
        (("0-1", "0-1", "2-3", "2-3"), {0, 1}, 1),
        (("0-1", "0-1", "2-3", "2-3"), {1, 2}, 2),
        (("0-3", "0-3", "0-3", "0-3"), range(4), 1),  # POWER has four and eight
        (("0-1", "0-1", "2", "3"), range(4), 3),  # performance and efficiency cores
        ((), range(4), 4),  # the machine does not tell
        (("", "nonsense", "2-", "7"), range(4), 4),  # nor does this one
    ],
)
def test_hardware_threads_of_one_core_count_once(siblings, affinity, physical, bound, tmp_path):
    bound(affinity)
    found = cores(write(tmp_path, topology(*siblings)))
    assert found.physical == physical
    assert found.logical == len(affinity)
    assert found.children == found.physical


@given(st.integers(1, 64), st.integers(1, 8), st.data())
def test_there_are_never_more_children_than_cores_or_threads_or_quota(count, per_core, data):
    physical = -(-count // per_core)
    quota = data.draw(st.none() | st.floats(0.1, 100))
    found = Cores(count, physical, quota)
    assert 1 <= found.children <= found.physical <= found.logical
    assert found.children <= found.threads <= found.logical
    assert quota is None or found.threads <= max(1, quota)


QUOTAS = {
    "version 2, at the root": ({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
    "version 2, in its own group": (
        {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "300000 100000"},
        3,
    ),
    "version 2, in a group above": (
        {
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/cpu.max": "100000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
        },
        1,
    ),
    "version 2, the lowest of several": (
        {
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/cpu.max": "500000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
        },
        4,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/other",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "250000",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
        },
        2,
    ),
    "version 1, of a container": (
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/0a1b",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        1,
    ),
    "version 1 without a limit": (
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
        8,
    ),
    "none": ({}, 8),
    "no limit": ({"sys/fs/cgroup/cpu.max": "max 100000"}, 8),
    "more than there are": ({"sys/fs/cgroup/cpu.max": "6400000 100000"}, 8),
    "nonsense": ({"sys/fs/cgroup/cpu.max": "no quota at all", "proc/self/cgroup": "x\n\n::"}, 8),
    "empty": ({"sys/fs/cgroup/cpu.max": "", "proc/self/cgroup": ""}, 8),
    "a period of zero": ({"sys/fs/cgroup/cpu.max": "100000 0"}, 8),
    "a path that leads out": ({"proc/self/cgroup": "0::/../../etc", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_the_quota_of_every_control_group_of_the_process_cuts_the_cores(case, bound, tmp_path):
    bound(range(8))
    files, expected = QUOTAS[case]
    assert cores(write(tmp_path, files)).threads == expected


MEMINFO = {
    "proc/meminfo": f"MemTotal: {32 * GB // 1024} kB\nMemFree: 1024 kB\nMemAvailable:   {20 * GB // 1024} kB\nHugePages_Total: 0"
}
MEMORIES = {
    "no control group": ({}, 32, 20),
    "version 2": ({"sys/fs/cgroup/memory.max": str(8 * GB), "sys/fs/cgroup/memory.current": str(3 * GB)}, 8, 5),
    "version 2, no limit": ({"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": str(3 * GB)}, 32, 20),
    "version 2, in a group above": (
        {
            "proc/self/cgroup": "0::/a/b/c",
            "sys/fs/cgroup/a/memory.max": str(4 * GB),
            "sys/fs/cgroup/a/memory.current": str(1 * GB),
            "sys/fs/cgroup/a/b/c/memory.max": str(16 * GB),
            "sys/fs/cgroup/a/b/c/memory.current": str(1 * GB),
        },
        4,
        3,
    ),
    "version 2, full of files that were read": (
        {
            "sys/fs/cgroup/memory.max": str(8 * GB),
            "sys/fs/cgroup/memory.current": str(8 * GB),
            "sys/fs/cgroup/memory.stat": f"anon {2 * GB}\ninactive_file {6 * GB}\nactive_file 0",
        },
        8,
        6,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "4:memory:/job",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(2 * GB),
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": str(1 * GB),
            "sys/fs/cgroup/memory/job/memory.stat": f"cache 7\ninactive_file 0\ntotal_inactive_file {GB // 2}",
        },
        2,
        1.5,
    ),
    "version 1, no limit": ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 32, 20),
    "less free on the machine than in the group": ({"sys/fs/cgroup/memory.max": str(31 * GB)}, 31, 20),
    "over its limit": ({"sys/fs/cgroup/memory.max": str(GB), "sys/fs/cgroup/memory.current": str(2 * GB)}, 1, 0),
    "nonsense": ({"sys/fs/cgroup/memory.max": "a lot", "sys/fs/cgroup/memory.stat": "inactive_file"}, 32, 20),
}


@pytest.mark.parametrize("case", MEMORIES)
def test_memory_is_what_machine_and_control_groups_leave(case, tmp_path):
    files, total, free = MEMORIES[case]
    found = memory(write(tmp_path, MEMINFO | files))
    assert (found.total_mb / 1024, found.free_mb / 1024) == (total, free)


def test_a_system_that_tells_nothing_has_its_physical_memory(tmp_path):
    found = memory(tmp_path)
    assert found.free_mb == found.total_mb > 0


def test_this_machine_has_cores_and_memory():
    assert 1 <= cores().children <= cores().logical
    assert 0 < memory().free_mb <= memory().total_mb
