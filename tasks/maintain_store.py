"""Tasks `verify_store`, `compact_store`, `collect_store`: the maintenance commands of `python -m storage`."""

from typing import Any

from prefect import task

from storage.cli import maintenance
from storage.errors import StorageError
from storage.maintenance.compact import CompactOptions
from storage.maintenance.target import Target
from tasks.caching import RETRY

UNCACHED: dict[str, Any] = {**RETRY, "cache_policy": None}


class Unsound(StorageError):
    """The verification of a store found faults. lines: its report, which names them."""

    def __init__(self, error: StorageError, lines: list[str]):
        super().__init__(str(error))
        self.lines = lines


@task(name="verify_store", **UNCACHED)
def verify_store(target: Target, is_deep: bool) -> list[str]:
    """Check every file of the store against what the store records of it. Raises Unsound."""
    lines: list[str] = []
    try:
        for line in maintenance.verify(target, is_deep):
            lines.append(line)
    except StorageError as error:
        raise Unsound(error, lines) from error
    return lines


@task(name="compact_store", **UNCACHED)
def compact_store(target: Target, options: CompactOptions) -> list[str]:
    """Merge small shards, and drop rows that no image uses any more."""
    return list(maintenance.compaction(target, options))


@task(name="collect_store", **UNCACHED)
def collect_store(target: Target, keep: int, grace_hours: float) -> list[str]:
    """Remove what the newest `keep` versions do not need."""
    return list(maintenance.gc(target, keep, grace_hours))
