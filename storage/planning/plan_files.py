"""Pass tables from one step of a run to the next, as memory-mapped Arrow files in the store's cache.

Content determines the names. The files may be deleted between runs.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from storage.backend.lock import sharing
from storage.backend.paths import is_local
from storage.layout import Store
from storage.manifest.diff import Changes
from storage.manifest.file_table import CONTENT_COLUMNS
from storage.manifest.versions import read_version
from storage.planning.plan import Plan
from storage.shards.shard import ShardRef
from storage.source.scan_files import prepare, read_table, write_table


class Form(NamedTuple):
    """How to convert a fact to JSON, and back."""

    write: Callable[[Any], Any] = lambda value: value
    read: Callable[[Any], Any] = lambda written: written


_CODES = Form(
    lambda codes: {digest.hex(): code for digest, code in codes.items()},
    lambda written: {bytes.fromhex(digest): code for digest, code in written.items()},
)
# The facts of a plan that JSON cannot hold as they are.
FORMS = {
    "parent": Form(lambda version: version.number if version else None),  # read from the store
    "shards": Form(
        lambda shards: [list(asdict(ref).values()) for ref in shards.values()],
        lambda written: {ref.name: ref for ref in (ShardRef(*values) for values in written)},
    ),
    "failures": _CODES,
    "variant_failures": _CODES,
    "changes": Form(asdict, lambda written: Changes(**written)),
    "augmentations": Form(list, tuple),
    "findings": Form(list, tuple),
}
TABLES = ("files", "rows", "todo", "corrections")
# Every other field is a fact, so that a new field of a plan needs no change here.
FACTS = {field.name: FORMS.get(field.name, Form()) for field in fields(Plan) if field.name not in TABLES}


@contextmanager
def using(store: Store) -> Iterator[None]:
    """Use the folder `store.plans` for the length of a run.

    An object store has no lock, so several runs of one machine may share this folder. A run clears the folder only if
    no other run uses it, so that no run removes tables that another still reads.
    """
    if is_local(store.root):
        yield
        return
    with sharing(store.cache / "plans.lock", lambda: prepare(store.plans)):
        yield


def save_plan(plan: Plan, folder: Path) -> Path:
    """Write a plan to its own folder, named by a hash of its content. Returns that folder."""
    facts = {name: form.write(getattr(plan, name)) for name, form in FACTS.items()}
    hasher = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for batch in [
        *plan.files.select(CONTENT_COLUMNS).to_batches(),
        *plan.todo.to_batches(),
        *plan.corrections.to_batches(),
    ]:
        hasher.update(batch.serialize())
    path = folder / f"{hasher.hexdigest()[:32]}.plan"
    path.mkdir(parents=True, exist_ok=True)
    write_table(path / "todo", plan.todo)
    write_table(path / "rows", plan.rows)
    write_table(path / "corrections", plan.corrections)
    write_table(path / "files", plan.files, facts)
    return path


def load_plan(store: Store, path: Path) -> Plan:
    """Read the plan that `save_plan` wrote to `path`."""
    files, facts = read_table(path / "files")
    own = {name: form.read(facts[name]) for name, form in FACTS.items()}
    own["parent"] = read_version(store, own["parent"]) if own["parent"] else None
    rows, corrections = (read_table(path / name)[0] for name in ("rows", "corrections"))
    return Plan(files=files, rows=rows, todo=open_todo(path), corrections=corrections, **own)


def open_todo(path: Path) -> pa.Table:
    """The images to extract of the plan at `path`, memory-mapped, so that a slice reads only its own rows."""
    return read_table(path / "todo")[0]
