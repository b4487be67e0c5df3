"""Facts about the engines of this machine that take seconds to find, kept in a cache folder that may be deleted.

A fact is a small JSON record. Its key names everything that can change it: the library's build, the processor, the spec
and this program's own code. The first process finds a fact, and the others wait for it instead of finding it too.
"""

import fcntl
import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

from vision.cache import cache_root

logger = logging.getLogger(__name__)

# The longest search measured took 8 s on an idle core. Whoever waits longer finds the fact alone.
LONGEST_WAIT_SECONDS = 60.0
POLL_SECONDS = 0.05
# Lines of /proc/cpuinfo that name a processor and its instructions, on x86 and on ARM.
PROCESSOR_LINES = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "cache size", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),
)
# Environment variables that can make a library compute otherwise.
NUMERIC_VARIABLES = ("GLIBC_TUNABLES", "LD_LIBRARY_PATH", "LD_PRELOAD", "TF_ENABLE_ONEDNN_OPTS")
NUMERIC_PREFIXES = ("DNNL_", "MNN_", "ONEDNN_", "OPENVINO_", "OV_")


def cache_folder() -> Path:
    """The folder of the facts. It belongs to the user and the machine, not to a store."""
    return cache_root() / "engines"


def kept(
    key: Mapping[str, Any], find: Callable[[], dict[str, Any]], holds: Callable[[dict], bool] = lambda found: True
) -> dict[str, Any]:
    """The fact of a key. It is read from the cache, or found and written there.

    holds: whether a fact from the cache is still true; if not, it is found again. If the folder cannot be used, the
    fact is found and not kept. Errors of `find` pass through, and nothing is kept.
    """
    path = path_of(key)
    found = read(path)
    if found is not None and holds(found):
        return found
    with _turn(path.with_suffix(".lock")):
        again = read(path)
        if again is not None and again != found and holds(again):
            return again
        if path.exists():
            state = "damaged" if again is None else "no longer true"
            logger.warning("engine facts: %s is %s: the engine is checked again", path, state)
        found = find()
        _write(path, {"key": dict(key), "found": found})
        return found


def known(key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fact of a key if it is in the cache."""
    return read(path_of(key))


def path_of(key: Mapping[str, Any]) -> Path:
    return cache_folder() / f"{_digest(key)[:32]}.json"


def read(path: Path) -> dict[str, Any] | None:
    """The fact of a file; None if the file is missing or its checksum is wrong."""
    try:
        checksum, record = json.loads(path.read_bytes())
        return dict(record["found"]) if checksum == _digest(record) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_damaged() -> bool:
    """Whether a fact in the cache is damaged. Deletes nothing, so that `remarks` can still report it."""
    return any(read(path) is None for path in cache_folder().glob("*.json"))


def remarks() -> list[str]:
    """Warnings about the cache, one line each. Deletes damaged facts."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        damaged = [path for path in folder.glob("*.json") if read(path) is None]
        for path in damaged:
            path.unlink(missing_ok=True)
    except OSError as error:
        return [f"engine facts cannot be kept in {folder} ({error.strerror}): each worker checks its engine by itself"]
    remark = f"engine facts: {len(damaged)} damaged in {folder}, deleted: the engines are checked again"
    return [remark] if damaged else []


def engine_key(engine: Any, threads: int) -> dict[str, Any]:
    """The key of facts about an engine: everything that can change its features or the shape of its batches."""
    return {
        "engine": engine.name,
        "builds": builds((*engine.distributions, "numpy")),
        "machine": machine(),
        "spec": engine.spec.record(),  # with the digest of the weights
        "before": engine.before,
        "threads": threads,
        "sources": sources(),
        "environment": numeric_environment(),
    }


@lru_cache
def machine() -> dict[str, Any]:
    """The processors of this machine: their names, and a digest of their properties."""
    found: dict[str, set[str]] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = (part.strip() for part in line.partition(":"))
            if name in PROCESSOR_LINES:
                found.setdefault(name, set()).add(value)
    known = {name: sorted(values) for name, values in found.items()}
    own = [platform.system(), platform.machine(), platform.processor()]
    return {"processors": known.get("model name", own), "digest": _digest([own, known])[:32]}


@lru_cache
def builds(distributions: tuple[str, ...]) -> dict[str, str]:
    """Name of each library → its version, and a digest of the hashes of its files. Two builds may share a version."""
    found = {}
    for name in distributions:
        record = distribution(name).read_text("RECORD") or ""
        found[name] = f"{version(name)} {hashlib.sha256(record.encode()).hexdigest()[:16]}"
    return found


@lru_cache
def sources() -> str:
    """A digest of the code that computes and checks features: a new version of this program finds its facts anew."""
    vision = Path(__file__).parents[1]
    own = [vision / name for name in ("families.py", "sample.py", "specs.py")]
    files = sorted([*own, *(vision / "engines").glob("*.py"), *(vision / "backbones").glob("*.py")])
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(f"{file.name}\n".encode() + file.read_bytes())
    return hasher.hexdigest()[:32]


def numeric_environment() -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in NUMERIC_VARIABLES or name.startswith(NUMERIC_PREFIXES)
    }


@contextmanager
def _turn(lock: Path) -> Iterator[None]:
    """Hold a kernel lock while the block runs. The kernel releases it if the process dies.

    The block runs without the lock if the folder cannot be used, or if the lock is not free in time.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "a")  # noqa: SIM115
    except OSError as error:
        logger.warning("engine facts cannot be kept in %s: %s", lock.parent, error.strerror)
        yield
        return
    with file:
        _wait_for(file.fileno(), lock)
        yield


def _wait_for(descriptor: int, lock: Path) -> None:
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL_SECONDS)
        except OSError as error:  # a network share may have no locks
            return logger.warning("engine facts: %s cannot be locked: %s", lock, error.strerror)
    logger.warning("engine facts: another process has held %s for %g s", lock, LONGEST_WAIT_SECONDS)


def _write(path: Path, record: dict[str, Any]) -> None:
    """Write a fact aside and rename it, so that no reader sees half of it."""
    aside = path.with_suffix(f".{os.getpid()}")
    try:
        aside.write_text(json.dumps([_digest(record), record], indent=1))
        aside.replace(path)
    except OSError as error:
        logger.warning("engine facts: %s cannot be written: %s", path, error.strerror)
        with suppress(OSError):
            aside.unlink()


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
