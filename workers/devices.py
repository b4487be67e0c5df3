"""The devices of this machine as slots, one per child. They are found without loading TensorFlow."""

import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

# TensorFlow with VGG16 at 224 pixels fills 1.3 GB. Decoding the largest image allowed may fill as much again.
SMALLEST_CHILD_MB = 4096.0

# The sizes of the libraries' thread pools. Most libraries read them once, when they are loaded. By default each pool
# has one thread per core, and the threads of several children wait for each other in busy loops.
THREAD_POOLS = (
    "OMP_NUM_THREADS",  # OpenMP, and Arrow's CPU pool
    "OMP_THREAD_LIMIT",  # caps both
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",  # Accelerate, on macOS
    "ARROW_IO_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


@dataclass(frozen=True)
class Slot:
    """A place for one child: the only GPU that it sees (None: no GPU), and its number of CPU threads."""

    gpu: str | None
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """The child's environment variables, set before Python starts. They override the user's machine-wide ones."""
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return gpu | dict.fromkeys(THREAD_POOLS, str(self.threads))


def visible_gpus() -> list[str]:
    """Identifiers of the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = (name.strip() for name in visible.split(","))
        return list(takewhile(lambda name: name not in ("", "-1"), names))  # CUDA stops at the first invalid one
    drivers = Path("/proc/driver/nvidia/gpus")
    return [str(index) for index, _ in enumerate(sorted(drivers.iterdir()))] if drivers.is_dir() else []


def available_cores() -> int:
    """Number of cores that this process may use: those of its CPU affinity, capped by the quota of its cgroup."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def memory_mb() -> float:
    """Memory in MB that this process and its children may fill: the machine's, or the limit of its cgroup if lower."""
    limits = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # `max`: no limit
            limits.append(int(Path(path).read_text()) / 2**20)
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20, *limits])


def memory_mb_a_child(children: int) -> float:
    """Memory in MB that each of `children` may fill: an equal share of nine tenths of the memory.

    A share is at least SMALLEST_CHILD_MB, so that one backbone fits, unless nine tenths of all the memory are less.
    """
    return max(0.9 * memory_mb() / children, min(SMALLEST_CHILD_MB, 0.9 * memory_mb()))


def slots(workers: int | None, engine: str = "tensorflow") -> tuple[Slot, ...]:
    """One slot per GPU that the engine can use, or else one single-threaded slot per core.

    workers: overrides the number of slots; slots then share the GPUs in turn.
    """
    gpus, cores = visible_gpus() if engine == "tensorflow" else [], available_cores()
    if gpus:
        count = workers or len(gpus)
        return tuple(Slot(gpus[i % len(gpus)], max(1, cores // count)) for i in range(count))
    # A child on the CPU always has one thread, so that an image gives the same bytes on a machine of any size.
    return tuple(Slot(None, 1) for _ in range(workers or cores))
