"""What lies in a store's heads/ folder, as its head.json tells; training and using heads is not this room's."""

import json
from dataclasses import dataclass
from pathlib import Path

from storage.layout import HEAD_NAME, Store, current_head


@dataclass(frozen=True)
class HeadNote:
    """What is known of a head without Keras.

    fingerprint, version: the features it was trained on. fault: why nothing is known of it, else None.
    """

    name: str
    fingerprint: str = ""
    version: int = 0
    val_accuracy: float = 0.0
    created: str = ""
    is_current: bool = False
    fault: str | None = None


def list_heads(root: Path) -> list[HeadNote]:
    """The heads in the store at `root`, oldest version first; a damaged one is listed with its fault."""
    store = Store(root, "")
    if not store.heads.is_dir():
        return []
    current = current_head(store)
    names = [path.name for path in store.heads.iterdir() if HEAD_NAME.fullmatch(path.name)]
    heads = [_read(store, name, name == current) for name in names]
    return sorted(heads, key=lambda head: (head.version, head.created, head.name))


def _read(store: Store, name: str, is_current: bool) -> HeadNote:
    folder = store.head(name)
    try:
        record = json.loads((folder / "head.json").read_text())
        accuracy, version = float(record["metrics"]["val_accuracy"]), int(record["version"])
        note = HeadNote(name, str(record["fingerprint"]), version, accuracy, str(record["created"]), is_current)
    except FileNotFoundError:
        return HeadNote(name, is_current=is_current, fault="no head.json: its training has not ended")
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        return HeadNote(name, is_current=is_current, fault=f"head.json cannot be read: {reason}")
    return note
