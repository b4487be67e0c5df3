"""Save scans and listings in the store's cache, and load them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.backend.atomic import sweep, writing
from storage.backend.paths import place
from storage.layout import Store
from storage.source.folder_layout import FolderLayout
from storage.source.listing import Listing
from storage.source.scan_table import Scan


def prepare(folder: Path, keep: str = "") -> None:
    """Create the folder and remove the files of earlier runs, except a scan of digest `keep` and its listing.

    Call it only while nobody else uses the folder: as the holder of the store's lock, or through `using`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    for path in folder.iterdir():
        if path.stem != keep and not path.name.startswith("."):  # dot files are still being written
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table, facts: dict[str, Any] | None = None) -> None:
    """Write a table as an Arrow file with `facts`, a JSON record, in its metadata."""
    table = table.replace_schema_metadata({"facts": json.dumps(facts or {})})
    with writing(path) as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_table(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Memory-map a table that `write_table` wrote. Returns the table and its facts."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    facts = json.loads(table.schema.metadata[b"facts"])
    return table.replace_schema_metadata(None), facts


def save_scan(scan: Scan, folder: Path) -> Path:
    """Write a scan to the folder, named by its digest. Returns the path."""
    path = folder / f"{scan.digest}.scan"
    facts = {
        "root": str(scan.root),
        "ignored": scan.ignored,
        "unreadable": [prefix.hex() for prefix in scan.unreadable],
        "scanned_ns": scan.scanned_ns,
        "layout": scan.layout.record(),
    }
    write_table(path, scan.files, facts)
    return path


def load_scan(path: Path) -> Scan:
    """Read a scan that `save_scan` wrote."""
    files, facts = read_table(path)
    unreadable = tuple(bytes.fromhex(prefix) for prefix in facts["unreadable"])
    layout = FolderLayout.of(facts["layout"])
    return Scan(place(facts["root"]), files, facts["ignored"], unreadable, facts["scanned_ns"], layout)


def last_root(store: Store) -> str | None:
    """The image folder of the last run on this machine; None if its scan is gone, or damaged."""
    scans = sorted(store.plans.glob("*.scan"), key=lambda path: path.stat().st_mtime)
    try:
        return str(load_scan(scans[-1]).root) if scans else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_listing(listing: Listing, scan_path: Path) -> Path:
    """Write a listing beside its scan. Returns the path."""
    path = scan_path.with_suffix(".listing")
    write_table(path, listing.files, {"hashed": listing.hashed})
    return path


def load_listing(path: Path) -> Listing:
    """Read a listing that `save_listing` wrote, with its scan."""
    files, facts = read_table(path)
    return Listing(load_scan(path.with_suffix(".scan")), files, facts["hashed"])
