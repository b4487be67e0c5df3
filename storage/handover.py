"""Tables that one step hands to the next: Arrow files below the store's cache, read by mapping them.

Each is named by what it holds, and may be deleted between runs.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.diff import Changes
from storage.digests import Listing
from storage.durable import sweep, writing
from storage.files import MEANING
from storage.folder_layout import FolderLayout
from storage.layout import Store
from storage.lock import sharing
from storage.place import is_local, place
from storage.plan import Plan
from storage.scan import Scan
from storage.shards import ShardRef
from storage.versions import read_version


def prepare(folder: Path, keep: str = "") -> None:
    """Make the folder, and drop what earlier runs handed over but for a scan of digest `keep` and its listing.

    Only for who uses the folder alone: the holder of the store's lock, or whoever `using` calls it for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    for path in folder.iterdir():
        if path.stem != keep and not path.name.startswith("."):  # what is being written
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


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


def _write(path: Path, table: pa.Table, facts: dict[str, Any] | None = None) -> None:
    table = table.replace_schema_metadata({"facts": json.dumps(facts or {})})
    with writing(path) as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _read(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    facts = json.loads(table.schema.metadata[b"facts"])
    return table.replace_schema_metadata(None), facts


def save_scan(scan: Scan, folder: Path) -> Path:
    path = folder / f"{scan.digest}.scan"
    facts = {
        "root": str(scan.root),
        "ignored": scan.ignored,
        "unreadable": [prefix.hex() for prefix in scan.unreadable],
        "scanned_ns": scan.scanned_ns,
        "layout": scan.layout.record(),
    }
    _write(path, scan.files, facts)
    return path


def load_scan(path: Path) -> Scan:
    files, facts = _read(path)
    unreadable = tuple(bytes.fromhex(prefix) for prefix in facts["unreadable"])
    layout = FolderLayout.of(facts["layout"])
    return Scan(place(facts["root"]), files, facts["ignored"], unreadable, facts["scanned_ns"], layout)


def save_listing(listing: Listing, scan_path: Path) -> Path:
    path = scan_path.with_suffix(".listing")
    _write(path, listing.files, {"hashed": listing.hashed})
    return path


def load_listing(path: Path) -> Listing:
    files, facts = _read(path)
    return Listing(load_scan(path.with_suffix(".scan")), files, facts["hashed"])


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
    _write(path / "todo", plan.todo)
    _write(path / "rows", plan.rows)
    _write(path / "files", plan.files, facts)
    return path


def _in_hex(codes: Mapping[bytes, str]) -> dict[str, str]:
    return {digest.hex(): code for digest, code in codes.items()}


def _from_hex(codes: Mapping[str, str]) -> dict[bytes, str]:
    return {bytes.fromhex(digest): code for digest, code in codes.items()}


def load_plan(store: Store, path: Path) -> Plan:
    files, facts = _read(path / "files")
    parent = facts.pop("parent")
    shards = [ShardRef(*values) for values in facts.pop("shards")]
    return Plan(
        parent=read_version(store, parent) if parent else None,
        files=files,
        rows=_read(path / "rows")[0],
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
    return _read(path / "todo")[0]
