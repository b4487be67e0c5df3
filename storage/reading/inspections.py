"""Where the last inspection of a version wrote its report, in the cache: a head's report names it."""

import json
from pathlib import Path

from storage.backend.atomic import replace
from storage.layout import Store


def note_inspection(store: Store, version: int, report: str) -> None:
    """Note the path of the report about a version."""
    replace(_path(store, version), json.dumps(report).encode())


def noted_inspection(store: Store, version: int) -> str:
    """The path of the report about a version; empty if there is none, or it is gone."""
    try:
        report = json.loads(_path(store, version).read_bytes())
        return report if isinstance(report, str) and Path(report).is_file() else ""
    except (OSError, ValueError):
        return ""


def _path(store: Store, version: int) -> Path:
    return store.cache / "inspections" / store.fingerprint / f"{version}.json"
