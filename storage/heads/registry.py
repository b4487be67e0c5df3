"""The heads of a store, as their head.json describes them. Training and using heads belongs to other rooms."""

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
WHOLE = "model.keras"  # of a head that was fine-tuned: the whole network


@dataclass(frozen=True)
class HeadNote:
    """What is known of a head without Keras.

    fingerprint, version, data_digest: the features it was trained on. fault: why it cannot be used, else None.
    is_unfinished: the fault is only that its training has not come to its end. faulty_file: the name of the file that
    the fault is of. is_deep: only reading the model finds it.
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
    """What the model's file is called, of a head that says this of itself."""
    return WHOLE if "base" in record else MODEL


def write_head(store: Store, name: str, record: dict, model: Path) -> None:
    """Make a head that was trained to its end: head.json comes last and knows the bytes of the model.

    A figure that is not finite becomes null.

    model: a file on this machine, which is taken from where it lies: in the working folder of the head.
    """
    folder = store.head(name)
    record = finite(record) | {"model": [model.stat().st_size, file_sha256(model)]}
    move(model, folder / model_name(record))
    replace(folder / RECORD, json.dumps(sealed(record), indent=1, allow_nan=False).encode())


def read_head(store: Store, name: str) -> dict:
    """What head.json says. Raises FileNotFoundError where the training has not ended, StoreDamaged where it was changed."""
    try:
        record = _record(store, name)
        fault = _size_fault(store, name, record)
    except UNREADABLE as error:
        raise StoreDamaged(f"head {name} is damaged ({error}); {store.way_out}") from error
    if fault:
        raise StoreDamaged(f"head {name} is damaged ({fault}); {store.way_out}")
    return record


def model_file(store: Store, name: str) -> Path:
    """The path of the model on this machine, once its bytes are those that were written. Raises as `read_head` does."""
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
    """Whether a head that says this of itself can be the current one."""
    test = record.get("test")
    return is_finite(record["metrics"]["val_loss"]) and (test is None or is_finite(test["loss"]))


def make_current(store: Store, name: str) -> None:
    """Make a head the current one, whatever it is worth. Raises InputError where it cannot be, StoreDamaged as `model_file`."""
    if not HEAD_NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is not the name of a head, which has 32 hex digits; `python -m storage show` lists them"
        )
    try:
        record = read_head(store, name)
        model_file(store, name)
    except FileNotFoundError:
        raise InputError(f"there is no head {name}, or its training has not ended") from None
    if "base" in record:
        raise InputError(
            f"head {name} was fine-tuned and takes pictures; the current head takes the features of the store"
        )
    if not has_finite_loss(record):
        raise InputError(f"the loss of head {name} is not finite: train another one, with a lower --learning-rate")
    promote_head(store, name)


def working_folder(store: Store, name: str) -> Path:
    """Where a training maps and writes its files: the head's folder, or one of this machine for an object store."""
    folder = store.head(name)
    return folder if is_local(folder) else store.cache / "heads" / name


def report_file(store: Store, name: str) -> Place:
    """Where the report of a head lies, for people."""
    return store.head(name) / REPORT


def keep_logs(store: Store, name: str) -> None:
    """Put what a training has logged beside its head, where that lies elsewhere."""
    logs = working_folder(store, name) / "logs"
    if is_local(store.root):
        return
    for path in sorted(logs.rglob("*")):
        if path.is_file():
            replace(store.head(name) / "logs" / os.fspath(path.relative_to(logs)), path.read_bytes())


def remove_head(store: Store, name: str) -> int:
    """Remove a head's folder with all in it; returns how many bytes that were."""
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
    return None if is_whole else f"{model} has another size"


def _model_fault(store: Store, name: str, record: dict) -> str | None:
    model = model_name(record)
    is_whole = file_sha256(store.head(name) / model) == record["model"][1]
    return None if is_whole else f"{model} has another sha256"


def list_heads(root: Place, is_deep: bool = False) -> list[HeadNote]:
    """The heads in the store at `root`, oldest version first; a damaged one is listed with its fault.

    is_deep: read the models too.
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
    """Say of a head that it is not compared with the current one, as those of a study are not, until `mark_ranked`."""
    replace(store.head(name) / UNRANKED, b"not compared with the current head\n")


def mark_ranked(store: Store, name: str) -> None:
    (store.head(name) / UNRANKED).unlink(missing_ok=True)


def is_unranked(store: Store, name: str) -> bool:
    return (store.head(name) / UNRANKED).exists()
