"""Tasks `verify_store`, `compact_store`, `collect_store`: the maintenance of `python -m storage`."""

from argparse import Namespace
from typing import Any

from prefect import task

from storage.cli import maintenance as commands
from storage.errors import StorageError
from tasks.caching import RETRY

UNCACHED: dict[str, Any] = {**RETRY, "cache_policy": None}


class Unsound(StorageError):
    """The verification of a store found faults; `lines` names them."""

    def __init__(self, error: StorageError, lines: list[str]):
        super().__init__(str(error))
        self.lines = lines


@task(name="verify_store", **UNCACHED)
def verify_store(options: Namespace) -> list[str]:
    """Hold every file of the store against what the store says of it. Raises Unsound."""
    lines: list[str] = []
    try:
        for line in commands.verify(options):
            lines.append(line)
    except StorageError as error:
        raise Unsound(error, lines) from error
    return lines


@task(name="compact_store", **UNCACHED)
def compact_store(options: Namespace) -> list[str]:
    """Merge small shards, and leave out rows that no image uses any more."""
    return list(commands.compaction(options))


@task(name="collect_store", **UNCACHED)
def collect_store(options: Namespace) -> list[str]:
    """Remove what the newest versions do not need."""
    return list(commands.gc(options))
