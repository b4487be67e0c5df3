"""The devices of this machine as slots, one per child. They are found without loading TensorFlow."""

import os
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path

from storage.text import count
from vision.engines.selection import engine_class
from vision.specs import FeatureSpec
from workers.machine import Cores, Memory, cores, memory

# Decoding the largest image allowed may fill as much again as TensorFlow with VGG16 at 224 pixels.
SMALLEST_CHILD_MB = 4096.0
# The part of the memory that children may fill. The rest is for the kernel, and for whatever starts meanwhile.
USABLE = 0.9
# Parts of an engine's batch that are tried before a child is left out. Smaller ones would cost the rate more.
BATCH_PARTS = (1, 2, 4)

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
    """A place for one child: the only GPU that it sees (None: no GPU), its number of CPU threads, and the largest batch
    that its memory holds (None: that of the engine)."""

    gpu: str | None
    threads: int
    largest_batch: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The child's environment variables, set before Python starts. They override the user's machine-wide ones."""
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return gpu | dict.fromkeys(THREAD_POOLS, str(self.threads))


@dataclass(frozen=True)
class Placement:
    """The slots of a run, and the reason for their number. is_short: memory may not hold them."""

    slots: tuple[Slot, ...]
    reason: str
    is_short: bool = False

    @property
    def summary(self) -> str:
        """The number of workers and the reason."""
        warning = "warning: " if self.is_short else ""
        return f"{count(len(self.slots), 'worker')}: {warning}{self.reason}"

    def at_most(self, num_chunks: int) -> "Placement":
        """The same slots, but no more than there are chunks, and at least one."""
        number = max(1, num_chunks)
        return self if number >= len(self.slots) else Placement(self.slots[:number], "one per chunk")


def visible_gpus() -> list[str]:
    """Identifiers of the NVIDIA GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = (name.strip() for name in visible.split(","))
        return list(takewhile(lambda name: name not in ("", "-1"), names))  # CUDA stops at the first invalid one
    drivers = Path("/proc/driver/nvidia/gpus")
    return [str(index) for index, _ in enumerate(sorted(drivers.iterdir()))] if drivers.is_dir() else []


def available_cores() -> int:
    """Number of threads that this process can run at a time: its CPU affinity, capped by the quota of its cgroup."""
    return cores().threads


def memory_mb_a_child(children: int) -> float:
    """Memory in MB that each of `children` may fill: an equal share of nine tenths of the memory.

    A share is at least SMALLEST_CHILD_MB, so that one backbone fits, unless nine tenths of all the memory are less.
    """
    usable = USABLE * memory().total_mb
    return max(usable / children, min(SMALLEST_CHILD_MB, usable))


def training_slots() -> tuple[Slot, ...]:
    """One slot per GPU, or else one slot. They share the cores, because a study trains in all of them at a time."""
    gpus: list[str | None] = [*visible_gpus()] or [None]
    return tuple(Slot(gpu, max(1, available_cores() // len(gpus))) for gpu in gpus)


def placement(workers: int | None, engine: str, spec: FeatureSpec) -> Placement:
    """The slots for an extraction: one per GPU that the engine can use, or else single-threaded ones on the CPU.

    workers: overrides the number of slots; slots then share the GPUs in turn.
    """
    gpus = visible_gpus() if engine == "tensorflow" else []
    if gpus:
        number, threads = workers or len(gpus), cores().threads
        own = "as `workers` requests" if workers else "one per GPU"
        return Placement(tuple(Slot(gpus[i % len(gpus)], max(1, threads // number)) for i in range(number)), own)
    return on_cpu(workers, engine, spec, cores(), memory())


def on_cpu(workers: int | None, engine: str, spec: FeatureSpec, cores: Cores, memory: Memory) -> Placement:
    """As many single-threaded slots as there are cores and memory for. A batch becomes smaller before a slot is left out.

    One thread each, so that an image gives the same bytes on a machine of any size.
    """
    kind = engine_class(engine)
    requested = workers or cores.children
    whole = kind.usual_batch(spec)
    sizes = [max(1, whole // part) for part in BATCH_PARTS]
    held = {size: min(requested, int(USABLE * memory.free_mb / kind.memory_mb(spec, size))) for size in sizes}
    most = max(held.values())
    batch = max(size for size in sizes if held[size] == most) if most else min(sizes)
    need = kind.memory_mb(spec, batch)
    fitting = requested if workers else max(1, most)
    slots = (Slot(None, 1, None if batch == whole else batch),) * fitting
    state = f"memory {memory.free_mb / 1024:.1f} of {memory.total_mb / 1024:.0f} GB free"
    at = f"{need / 1024:.1f} GB each" + (
        f", with batches of {batch} images instead of {whole}" if batch < whole else ""
    )
    if most >= fitting and batch == whole and fitting == requested:
        return Placement(slots, "as `workers` requests" if workers else _by_cores(cores))
    if most < fitting:
        return Placement(slots, f"{state} holds {most} at {at}; the kernel may kill some of them", True)
    return Placement(slots, f"{state} allows {fitting} at {at}")


@lru_cache
def engine_copies(engine: str, spec: FeatureSpec, threads: int) -> Placement:
    """Single-threaded copies of an engine for one child with `threads` threads: one per core, as far as memory holds them.

    Placed once per process, because an engine that is loaded would count as taken memory the next time.
    """
    return on_cpu(None, engine, spec, cores(), memory()).at_most(threads)


def _by_cores(cores: Cores) -> str:
    if cores.children < cores.physical:
        return f"the control group grants {cores.quota:g} of {cores.logical} cores"
    threads = f", which run {cores.logical} threads" if cores.logical > cores.physical else ""
    return f"one per core{threads}"
