"""Variants that a version lacks. A head that was trained without them has another name. No Prefect here."""

from storage.errors import StorageError
from storage.heads.registry import read_head
from storage.layout import Store
from storage.manifest.versions import Version, read_version
from storage.reading.samples import Lacking, lacking_views
from storage.records import canonical, sha256
from vision.training.head import HeadSpec


def lacking(store: Store, version: Version, spec: HeadSpec) -> Lacking:
    """The training images' missing variants, of those that `spec` trains on, or that its base head was trained on."""
    if spec.variants == 1:
        return Lacking()
    return lacking_views(store, version, "train", spec.classes, spec.augment, spec.variants)


def data_name(data_digest: str, lacks: Lacking) -> str:
    """Name of a head's training data: the version's data digest, hashed with the missing variants if there are any."""
    return sha256(canonical({"data_digest": data_digest, "lacking": lacks.digest})) if lacks.samples else data_digest


def is_half_augmented(store: Store, name: str, spec: HeadSpec) -> bool:
    """Whether a head lacked variants though its name stands for all of them.

    Such heads exist because names did not always tell the difference. The result is False if the head or its version
    is gone or cannot be read.
    """
    try:
        record = read_head(store, name)
        if "lacking" in record:
            return False
        return lacking(store, read_version(store, record["version"]), spec).samples > 0
    except (FileNotFoundError, StorageError, KeyError, TypeError):
        return False
