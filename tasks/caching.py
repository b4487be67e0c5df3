"""Prefect's cache records of the steps: JSON in the store's cache. A record is used only while it is true.

Correctness never depends on them, because every task asks the store first. Deleting all of Prefect's state costs only
time.
"""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from prefect import Task
from prefect.serializers import Serializer
from prefect.tasks import exponential_backoff
from pydantic import TypeAdapter

from storage.backend.paths import place
from storage.heads.registry import is_unranked
from storage.layout import Store
from storage.manifest.versions import latest_version
from storage.records import sha256
from storage.shards.inventory import is_present
from storage.shards.shard import ShardRef
from storage.source.scan_files import load_listing
from workers.errors import CERTAIN, EXPECTED, PoolClosed, WorkerFailed
from workers.jobs.head_identity import find_head
from workers.jobs.records import ChunkResult, HeadResult, ListingRecord, Space, VersionRecord
from workers.jobs.spaces import version_record

RECORDS = {kind.__name__: kind for kind in (ListingRecord, ChunkResult, VersionRecord, HeadResult)}
T = TypeVar("T", bound=Task)

# Three tries within about half a minute are enough for a brief fault of a disk or network share, or a dead child.
RETRY: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=3),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": lambda task, run, state: can_help(state),
}


def can_help(state) -> bool:
    """Whether a retry can help. It cannot for bad input, a bug, a full or read-only disk, or a denied permission."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, OSError):
        return error.errno not in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM)
    if isinstance(error, WorkerFailed):
        return error.can_help
    return not isinstance(error, (PoolClosed, *EXPECTED.values(), *CERTAIN))


class StaleRecord(ValueError):
    """A cached record describes something that no longer exists. Prefect treats this as a cache miss."""


class CheckedRecords(Serializer):
    """Stores records as JSON, and checks each against the store when it loads them. Loading raises StaleRecord."""

    type: Literal["true-records"] = "true-records"
    root: str
    fingerprint: str

    def dumps(self, obj: Any) -> bytes:
        if isinstance(obj, BaseException):  # Prefect stores failures as well; `loads` refuses them
            return json.dumps({"failed": str(obj)}).encode()
        records = obj if isinstance(obj, list) else [obj]
        kinds = [{"kind": type(record).__name__, "record": asdict(record)} for record in records]
        return json.dumps({"is_list": isinstance(obj, list), "records": kinds}).encode()

    def loads(self, blob: bytes) -> Any:
        content = json.loads(blob)
        if "failed" in content:
            raise StaleRecord("the record is of a failure, not of a result")
        records = [TypeAdapter(RECORDS[item["kind"]]).validate_python(item["record"]) for item in content["records"]]
        store = Store(place(self.root), self.fingerprint)
        for record in records:
            if not is_true(store, record):
                raise StaleRecord(f"{self.root} no longer agrees with {record}")
        # The run that wrote the record trained the head and decided on it; the run that reads it did neither.
        records = [replace(r, is_new=False, promotion=None) if isinstance(r, HeadResult) else r for r in records]
        return records if content["is_list"] else records[0]


def is_true(store: Store, record: Any) -> bool:
    """Whether the store still holds the content of a record."""
    if isinstance(record, ListingRecord):
        return not record.unreadable and _can_be_read(Path(record.path))
    if isinstance(record, ChunkResult):
        ref = ShardRef(record.shard, record.size_bytes, record.rows, record.footer_checksum)
        # A record with quarantined images is a miss: they come up again after `quarantine --retry`, to be retried.
        return not record.skipped and not record.quarantined and is_present(store, ref)
    if isinstance(record, VersionRecord):
        newest = latest_version(store)
        return newest is not None and version_record(newest) == record
    head = find_head(store, record.name)
    return head is not None and head.is_promoted == record.is_promoted and not is_unranked(store, record.name)


def _can_be_read(listing: Path) -> bool:
    try:
        load_listing(listing)
    except (OSError, ValueError, KeyError, TypeError):  # gone, or truncated by a power cut
        return False
    return True


def kept(task: T, space: Space) -> T:
    """The task, with its records stored beside the store that they describe. A copy of the store ignores them."""
    folder = space.store.cache / "prefect" / sha256(os.fsencode(space.root))[:16]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    serializer = CheckedRecords(root=space.root, fingerprint=space.fingerprint)
    return task.with_options(
        result_storage=folder, result_serializer=serializer, persist_result=True, cache_expiration=timedelta(days=30)
    )


def keyed(function: Callable[..., str | None]) -> Callable[..., str | None]:
    """Make a Prefect cache key function of a function of the task's parameters. The key None means uncached."""
    return lambda context, parameters: function(**parameters)
