"""Tables that one step hands to the next: memory-mapped Arrow files in the store's cache.

Each is named by what it holds, and may be deleted between runs.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from storage.backend.lock import sharing
from storage.backend.paths import is_local
from storage.layout import Store
from storage.manifest.diff import Changes
from storage.manifest.file_table import MEANING
from storage.manifest.versions import read_version
from storage.planning.plan import Plan
from storage.shards.shard import ShardRef
from storage.source.scan_files import prepare, read_table, write_table


@contextmanager
def using(store: Store) -> Iterator[None]:
    """Hand tables over in `store.plans` for the length of a run.

    Runs on an object store have no lock of the store, and those of one machine share this folder. The first to find it
    unused clears it, so that no run removes what another one still reads.
    """
    if is_local(store.root):
        yield
        return
    with sharing(store.cache / "plans.lock", lambda: prepare(store.plans)):
        yield


def save_plan(plan: Plan, folder: Path) -> Path:
    """Write a plan as a folder of its own, named by what it would do; returns that folder."""
    facts = {
        "parent": plan.parent.number if plan.parent else None,
        "shards": [list(asdict(ref).values()) for ref in plan.shards.values()],
        "failures": _in_hex(plan.failures),
        "variant_failures": _in_hex(plan.variant_failures),
        "changes": asdict(plan.changes),
        "adopted": plan.adopted,
        "lost": plan.lost,
        "stale": plan.stale,
        "ignored": plan.ignored,
        "chunk_size": plan.chunk_size,
        "format": plan.format,
        "needs_commit": plan.needs_commit,
        "augmentation": plan.augmentation,
        "augmentations": plan.augmentations,
        "findings": plan.findings,
    }
    hasher = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for batch in [*plan.files.select(MEANING).to_batches(), *plan.todo.to_batches()]:
        hasher.update(batch.serialize())
    path = folder / f"{hasher.hexdigest()[:32]}.plan"
    path.mkdir(parents=True, exist_ok=True)
    write_table(path / "todo", plan.todo)
    write_table(path / "rows", plan.rows)
    write_table(path / "files", plan.files, facts)
    return path


def _in_hex(codes: Mapping[bytes, str]) -> dict[str, str]:
    return {digest.hex(): code for digest, code in codes.items()}


def _from_hex(codes: Mapping[str, str]) -> dict[bytes, str]:
    return {bytes.fromhex(digest): code for digest, code in codes.items()}


def load_plan(store: Store, path: Path) -> Plan:
    files, facts = read_table(path / "files")
    parent = facts.pop("parent")
    shards = [ShardRef(*values) for values in facts.pop("shards")]
    return Plan(
        parent=read_version(store, parent) if parent else None,
        files=files,
        rows=read_table(path / "rows")[0],
        shards={ref.name: ref for ref in shards},
        failures=_from_hex(facts.pop("failures")),
        variant_failures=_from_hex(facts.pop("variant_failures")),
        todo=open_todo(path),
        changes=Changes(**facts.pop("changes")),
        augmentations=tuple(facts.pop("augmentations")),
        findings=tuple(facts.pop("findings")),
        **facts,
    )


def open_todo(path: Path) -> pa.Table:
    """The images to extract of the plan at `path`, mapped: a child reads its own chunk alone."""
    return read_table(path / "todo")[0]
