"""Open a head of a store to predict with."""

from dataclasses import dataclass
from pathlib import Path

from storage.backend.paths import Place
from storage.errors import InputError, StoreDamaged
from storage.heads.current import current_head
from storage.heads.registry import UNREADABLE, model_file, read_head
from storage.layout import HEAD_NAME, Store
from storage.records import fingerprint
from vision.specs import FeatureSpec


@dataclass(frozen=True)
class OpenedHead:
    """A head of a store.

    fingerprint, spec: the feature space that it was trained on. classes: in index order. version: number of the version that
    it was trained on. model: the verified model file on this machine. is_whole: it was fine-tuned and takes pixels.
    """

    name: str
    fingerprint: str
    spec: FeatureSpec
    classes: tuple[str, ...]
    version: int
    model: Path
    is_whole: bool
    record: dict


def open_head(root: Place, name: str | None = None) -> OpenedHead:
    """Open a head, by default the current one.

    Raises InputError if there is no such store or head, StoreDamaged if the head is damaged.
    """
    store = Store(root, "")
    name = name or _current(store)
    if not HEAD_NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is not the name of a head, which has 32 hex digits; `{store.command('show')}` lists them"
        )
    try:
        record = read_head(store, name)
    except FileNotFoundError:
        raise InputError(f"{root} has no head {name}, or its training has not ended") from None
    try:
        spec = FeatureSpec(**{key: value for key, value in record["features"].items() if key != "shape"})
        if fingerprint(spec.record()) != record["fingerprint"]:
            raise ValueError("its features are of another feature space")
        classes, version = tuple(record["classes"]), int(record["version"])
    except UNREADABLE as error:
        raise StoreDamaged(f"head {name} is damaged ({error}); {store.way_out}") from error
    return OpenedHead(
        name, record["fingerprint"], spec, classes, version, model_file(store, name), "base" in record, record
    )


def _current(store: Store) -> str:
    if not store.root.is_dir():
        raise InputError(f"there is no store at {store.root}")
    if name := current_head(store):
        return name
    if store.heads.is_dir() and any(HEAD_NAME.fullmatch(path.name) for path in store.heads.iterdir()):
        raise InputError(
            f"{store.root} has no current head; `{store.command('show')}` lists the heads to name as `head`"
        )
    raise InputError(f"{store.root} has no head yet; run the pipeline without `extract_only`, which trains one")
