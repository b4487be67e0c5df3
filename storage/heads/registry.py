"""The heads of a store as their head.json describes them. Other rooms train and use heads."""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from storage.backend.atomic import move, replace
from storage.backend.bounded_read import read_whole
from storage.backend.paths import Place, is_local
from storage.errors import BytesDamaged, InputError, StoreDamaged
from storage.finite import finite, is_finite
from storage.heads.current import current_head, promote_head
from storage.layout import HEAD_NAME, Store
from storage.records import file_sha256, sealed, unsealed

RECORD, MODEL, PIN, REPORT, UNRANKED = "head.json", "head.keras", "pin.json", "report.html", "unranked"
WHOLE = "model.keras"  # the whole network, of a fine-tuned head


@dataclass(frozen=True)
class HeadNote:
    """What is known about a head without Keras.

    fingerprint, version, data_digest: the features it was trained on. fault: why it cannot be used, else None.
    is_unfinished: the only fault is that its training has not ended. faulty_file: the name of the faulty file.
    is_deep: only a read of the whole model finds the fault.
    """

    name: str
    fingerprint: str = ""
    version: int = 0
    val_accuracy: float = 0.0
    created: str = ""
    is_current: bool = False
    fault: str | None = None
    is_unfinished: bool = False
    faulty_file: str = RECORD
    is_deep: bool = False
    data_digest: str = ""


def model_name(record: Mapping) -> str:
    """The name of the model file of a head with this record."""
    return WHOLE if "base" in record else MODEL


def write_head(store: Store, name: str, record: dict, model: Path) -> None:
    """Store a head after its training has ended. head.json comes last and has the size and sha256 of the model.

    Replaces figures that are not finite with null. model: a file in the head's working folder, which is moved.
    """
    folder = store.head(name)
    record = finite(record) | {"model": [model.stat().st_size, file_sha256(model)]}
    move(model, folder / model_name(record))
    replace(folder / RECORD, json.dumps(sealed(record), indent=1, allow_nan=False).encode())


def read_head(store: Store, name: str) -> dict:
    """Read head.json. Raises FileNotFoundError if the training has not ended.

    Raises StoreDamaged if head.json was changed, or the model is missing or has another size.
    """
    try:
        record = _record(store, name)
        fault = _size_fault(store, name, record)
    except UNREADABLE as error:
        raise StoreDamaged(f"head {name} is damaged ({error}); {store.way_out}") from error
    if fault:
        raise StoreDamaged(f"head {name} is damaged ({fault}); {store.way_out}")
    return record


def model_file(store: Store, name: str) -> Path:
    """Verify the sha256 of a head's model and return its path on this machine. Copies it from an object store.

    Raises BytesDamaged if the sha256 differs, and what `read_head` raises.
    """
    record = read_head(store, name)
    if fault := _model_fault(store, name, record):
        raise BytesDamaged(f"head {name} is damaged ({fault}); {store.deep_way_out}")
    path = store.head(name) / model_name(record)
    if is_local(path):
        return path
    copy = working_folder(store, name) / path.name
    replace(copy, path.read_bytes())
    return copy


def has_finite_loss(record: Mapping) -> bool:
    """Whether the losses in a head's record are finite, as the current head's must be."""
    test = record.get("test")
    return is_finite(record["metrics"]["val_loss"]) and (test is None or is_finite(test["loss"]))


def make_current(store: Store, name: str) -> None:
    """Make a head the current one, however accurate it is.

    Raises InputError if the name is invalid or the head does not exist, is unfinished, was fine-tuned, or has a loss
    that is not finite. Raises StoreDamaged as `model_file` does.
    """
    if not HEAD_NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is not a valid name of a head; expected 32 hex digits, as `{store.command('show')}` lists them"
        )
    try:
        record = read_head(store, name)
        model_file(store, name)
    except FileNotFoundError:
        raise InputError(f"there is no head {name}, or its training has not ended") from None
    if "base" in record:
        raise InputError(
            f"head {name} was fine-tuned and takes images, but the current head must take the features of the store"
        )
    if not has_finite_loss(record):
        raise InputError(f"the loss of head {name} is not finite; train another one with a lower `learning_rate`")
    promote_head(store, name)


def working_folder(store: Store, name: str) -> Path:
    """The folder of a training's files: the head's folder, or one of this machine if the store is an object store."""
    folder = store.head(name)
    return folder if is_local(folder) else store.cache / "heads" / name


def report_file(store: Store, name: str) -> Place:
    """The path of a head's report."""
    return store.head(name) / REPORT


def keep_logs(store: Store, name: str) -> None:
    """Copy a training's logs to its head if that is in an object store. Else they are there already."""
    logs = working_folder(store, name) / "logs"
    if is_local(store.root):
        return
    for path in sorted(logs.rglob("*")):
        if path.is_file():
            replace(store.head(name) / "logs" / os.fspath(path.relative_to(logs)), path.read_bytes())


def remove_head(store: Store, name: str) -> int:
    """Remove a head's folder and all in it. Returns the bytes that this frees."""
    folder = store.head(name)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if isinstance(folder, Path):
        shutil.rmtree(folder)
    else:
        folder.fs.rm(folder.path, recursive=True)
    return size


UNREADABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)


def _record(store: Store, name: str) -> dict:
    return unsealed(json.loads(read_whole(store.head(name) / RECORD)))


def _size_fault(store: Store, name: str, record: dict) -> str | None:
    model = model_name(record)
    try:
        is_whole = (store.head(name) / model).stat().st_size == record["model"][0]
    except FileNotFoundError:
        return f"{model} is missing"
    return None if is_whole else f"{model} has the wrong size"


def _model_fault(store: Store, name: str, record: dict) -> str | None:
    model = model_name(record)
    is_whole = file_sha256(store.head(name) / model) == record["model"][1]
    return None if is_whole else f"{model} has the wrong sha256"


def list_heads(root: Place, is_deep: bool = False) -> list[HeadNote]:
    """The heads in the store at `root`, oldest version first. A damaged head comes with its fault.

    is_deep: also verify the sha256 of each model.
    """
    store = Store(root, "")
    if not store.heads.is_dir():
        return []
    current = current_head(store)
    names = [path.name for path in store.heads.iterdir() if HEAD_NAME.fullmatch(path.name)]
    heads = [_note(store, name, name == current, is_deep) for name in names]
    return sorted(heads, key=lambda head: (head.version, head.created, head.name))


def _note(store: Store, name: str, is_current: bool, is_deep: bool) -> HeadNote:
    try:
        record = _record(store, name)
        accuracy, version = float(record["metrics"]["val_accuracy"]), int(record["version"])
        note = HeadNote(name, str(record["fingerprint"]), version, accuracy, str(record["created"]), is_current)
        note = dataclasses.replace(note, data_digest=str(record.get("data_digest", "")))
        if fault := _size_fault(store, name, record):
            return dataclasses.replace(note, fault=fault, faulty_file=model_name(record))
        if is_deep and (fault := _model_fault(store, name, record)):
            return dataclasses.replace(note, fault=fault, faulty_file=model_name(record), is_deep=True)
        return note
    except FileNotFoundError:
        return HeadNote(
            name, is_current=is_current, fault=f"no {RECORD}: its training has not ended", is_unfinished=True
        )
    except (OSError, *UNREADABLE) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return HeadNote(name, is_current=is_current, fault=f"{RECORD} cannot be read: {reason}")


def mark_unranked(store: Store, name: str) -> None:
    """Exclude a head from the comparison with the current one, until `mark_ranked`. Heads of a study are excluded."""
    replace(store.head(name) / UNRANKED, b"not compared with the current head\n")


def mark_ranked(store: Store, name: str) -> None:
    """Let a head take part in the comparison with the current one again."""
    (store.head(name) / UNRANKED).unlink(missing_ok=True)


def is_unranked(store: Store, name: str) -> bool:
    """Whether a head is excluded from the comparison with the current one."""
    return (store.head(name) / UNRANKED).exists()
