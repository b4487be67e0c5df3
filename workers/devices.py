"""Which devices this machine gives us: one slot for a child each. Asked without loading TensorFlow."""

import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

# TensorFlow with VGG16 at 224 pixels fills 1.3 GB, and the most pixels that are decoded another.
SMALLEST_CHILD_MB = 4096.0

# How many threads libraries have in their pools, which most of them read once, when they are loaded. Left alone each
# takes one a core, and the children's threads wait for each other in busy loops.
THREAD_POOLS = (
    "OMP_NUM_THREADS",  # OpenMP, and Arrow's CPU pool
    "OMP_THREAD_LIMIT",  # cuts both of them
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
    """A place for one child: the GPU that it alone sees (None: no GPU), and its CPU threads."""

    gpu: str | None
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """What the environment of its child says before Python starts, whatever the user's says for the whole machine."""
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return gpu | dict.fromkeys(THREAD_POOLS, str(self.threads))


def visible_gpus() -> list[str]:
    """Identifiers of the NVIDIA GPUs this process may use, in the form CUDA_VISIBLE_DEVICES takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = (name.strip() for name in visible.split(","))
        return list(takewhile(lambda name: name not in ("", "-1"), names))  # CUDA stops at the first that is none
    drivers = Path("/proc/driver/nvidia/gpus")
    return [str(index) for index, _ in enumerate(sorted(drivers.iterdir()))] if drivers.is_dir() else []


def available_cores() -> int:
    """Cores that this process may really use: its affinity, cut by the quota of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def memory_mb() -> float:
    """Memory that this process and its children may fill: the machine's, or less where its control group says so."""
    limits = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # `max`: no limit
            limits.append(int(Path(path).read_text()) / 2**20)
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20, *limits])


def memory_mb_a_child(children: int) -> float:
    """What one of so many children may fill: nine tenths of the memory shared out, but room for one backbone at least."""
    return max(0.9 * memory_mb() / children, min(SMALLEST_CHILD_MB, 0.9 * memory_mb()))


def slots(workers: int | None, engine: str = "tensorflow") -> tuple[Slot, ...]:
    """One slot a GPU that the engine can use, or else one single-threaded slot a core; `workers` overrides how many."""
    gpus, cores = visible_gpus() if engine == "tensorflow" else [], available_cores()
    if gpus:
        count = workers or len(gpus)
        return tuple(Slot(gpus[i % len(gpus)], max(1, cores // count)) for i in range(count))
    # The threads of a child are always one, so that the same image gives the same bytes on any machine size.
    return tuple(Slot(None, 1) for _ in range(workers or cores))
