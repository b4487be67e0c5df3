"""The cores and memory that this process may use, as reported by the kernel and its control groups.

Linux only. On other systems a process may use all cores and memory. `root` is the root of the file system, for tests.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True)
class Cores:
    """The cores that this process may use. logical: hardware threads of its CPU affinity. physical: cores that those
    belong to. quota: how many of them its control group lets run at a time; None: all."""

    logical: int
    physical: int
    quota: float | None = None

    @property
    def threads(self) -> int:
        """How many threads can run at a time."""
        return self._within(self.logical)

    @property
    def children(self) -> int:
        """How many single-threaded children use the machine best.

        The second hardware thread of a core shares its multipliers, which a convolution keeps busy alone; it serves the
        decoding thread of the child instead. So there is one child per physical core.
        """
        return self._within(self.physical)

    def _within(self, count: int) -> int:
        return count if self.quota is None else max(1, min(count, int(self.quota)))


@dataclass(frozen=True)
class Memory:
    """Memory in MB: the total that this process and its children may fill, and the free part of it."""

    total_mb: float
    free_mb: float


def cores(root: Path = ROOT) -> Cores:
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = {_siblings(root, cpu) or frozenset({cpu}) for cpu in usable}
    quotas = [*_cpu_quotas(root)]
    return Cores(len(usable), len(siblings), min(quotas) if quotas else None)


def _siblings(root: Path, cpu: int) -> frozenset[int] | None:
    """The hardware threads of a core, from the text of one of them: `0,64` or `0-1`."""
    try:
        text = (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        spans = [part.split("-") for part in text.strip().split(",")]
        found = frozenset(number for span in spans for number in range(int(span[0]), int(span[-1]) + 1))
    except (OSError, ValueError):
        return None
    return found if cpu in found else None


def memory(root: Path = ROOT) -> Memory:
    """The machine's memory, within the limits of the control groups."""
    machine = _fields(root / "proc/meminfo")
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024
    total = machine.get("MemTotal", physical) / 1024
    free = machine.get("MemAvailable", machine.get("MemTotal", physical)) / 1024
    for limit, used in _memory_limits(root):
        total, free = min(total, limit), min(free, max(0.0, limit - used))
    return Memory(total, free)


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Cores that each control group of this process grants."""
    for folder in _groups(root, "cpu"):
        pair = _values(folder / "cpu.max") or [
            *_values(folder / "cpu.cfs_quota_us")[:1],
            *_values(folder / "cpu.cfs_period_us")[:1],
        ]
        try:
            quota, period = (int(value) for value in pair)
        except ValueError:  # `max`, or no such file
            continue
        if quota > 0 and period > 0:  # version 1 says -1 for no limit
            yield quota / period


def _memory_limits(root: Path) -> Iterator[tuple[float, float]]:
    """Limit of each control group of this process, and how much of it is in use, in MB."""
    for folder in _groups(root, "memory"):
        for limit_name, used_name in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None:
                # The kernel drops pages of files that were not read lately before it refuses memory.
                pages = _fields(folder / "memory.stat")
                dropped = pages.get("total_inactive_file", pages.get("inactive_file", 0))
                yield limit / 2**20, max(0, (used or 0) - dropped) / 2**20


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups that limit this process: its own, and all above it.

    /proc/self/cgroup has `0::/path` for version 2, and `4:memory:/path` for a controller of version 1. In a container
    the path may be that of the host, of which only the root is mounted.
    """
    mounts = {"": root / "sys/fs/cgroup", controller: root / "sys/fs/cgroup" / controller}
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    paths = {"": "/", controller: "/"}
    for line in lines:
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if names == "" or controller in names.split(","):
            paths[controller if names else ""] = path
    for name, mount in mounts.items():
        own = mount.joinpath(*[part for part in paths[name].split("/") if part not in ("", "..")])
        yield from (folder for folder in (own, *own.parents) if folder == mount or mount in folder.parents)


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of lines `name number` or `name: number kB`."""
    pairs = (line.replace(":", " ").split() for line in _text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdecimal()}


def _number(path: Path) -> int | None:
    """The number of a file; None if it holds none, for example `max`."""
    values = _values(path)
    return int(values[0]) if values and values[0].isdecimal() else None


def _values(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
