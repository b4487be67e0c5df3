"""Variants that a version lacks: a head that was trained without them has another name. No Prefect here."""

from storage.errors import StorageError
from storage.heads.registry import read_head
from storage.layout import Store
from storage.manifest.versions import Version, read_version
from storage.reading.samples import Lacking, lacking_views
from storage.records import canonical, sha256
from vision.training.head import HeadSpec


def lacking(store: Store, version: Version, spec: HeadSpec) -> Lacking:
    """What the training images lack of the variants that a head of `spec` is trained on, or begins at."""
    if spec.variants == 1:
        return Lacking()
    return lacking_views(store, version, "train", spec.classes, spec.augment, spec.variants)


def data_name(data_digest: str, lacks: Lacking) -> str:
    """What names the data that a head is trained on: the version's digest of it where no variant is missing."""
    return sha256(canonical({"data_digest": data_digest, "lacking": lacks.digest})) if lacks.samples else data_digest


def is_half_augmented(store: Store, name: str, spec: HeadSpec) -> bool:
    """Whether the head of a name that stands for all variants lacked some: before names told, it was given then too.

    A head whose version is gone is believed.
    """
    try:
        record = read_head(store, name)
        if "lacking" in record:
            return False
        return lacking(store, read_version(store, record["version"]), spec).samples > 0
    except (FileNotFoundError, StorageError, KeyError, TypeError):
        return False
