"""The name of a head, and whether the head exists."""

from dataclasses import replace

from storage.classes import Counts, only
from storage.errors import InputError, StorageError
from storage.finite import finite
from storage.heads.current import current_head
from storage.heads.registry import read_head
from storage.layout import Store
from storage.records import canonical, sha256
from storage.text import quoted
from vision.training.head import HeadSpec
from workers.jobs.divergence import divergence
from workers.jobs.head_record import left_out, test_metrics
from workers.jobs.records import HeadResult


def head_name(fingerprint: str, data_digest: str, spec: HeadSpec, seed: int) -> str:
    """The name of a head, which is also its folder: a hash of everything that determines the head.

    How the store keeps its rows does not change the name. data_digest: the `data_name` of the training data.
    """
    record = {"fingerprint": fingerprint, "data_digest": data_digest, "head": spec.record(), "seed": seed}
    return sha256(canonical(record))[:32]


def base_name(fingerprint: str, data_digest: str, spec: HeadSpec, seed: int) -> str | None:
    """Name of the head that a training with `spec` continues from; None if it starts afresh.

    Fine-tuning continues from the head of the same spec without fine-tuning. Other trainings continue from
    `initial_head`, or else from the head that was trained from the beginning up to the initial epoch.
    """
    if spec.fine_tune:
        return head_name(fingerprint, data_digest, spec.untuned, seed)
    if not spec.initial_epoch:
        return None
    begun = replace(spec, epochs=spec.initial_epoch, initial_epoch=0, initial_head="")
    return spec.initial_head or head_name(fingerprint, data_digest, begun, seed)


def find_head(store: Store, name: str) -> HeadResult | None:
    """The head of this name, or None if it is missing, its training did not finish, or its record is damaged."""
    try:
        record = finite(read_head(store, name))  # older heads have NaN
        metrics = record["metrics"] | test_metrics(record.get("test"))
        is_current, diverged = current_head(store) == name, divergence(store, name, record)
        history, left = tuple(record["history"]), left_out(record)
        return HeadResult(name, False, is_current, **metrics, history=history, diverged=diverged, left_out=left)
    except (FileNotFoundError, StorageError, KeyError, TypeError):
        return None


def check_trainable(classes: Counts, names: tuple[str, ...], only_reads: bool = False) -> None:
    """Raise InputError if no head can be trained: fewer than two classes, or a split without usable images of them.

    classes: images by split and class. names: classes to train on. only_reads: the caller extracts nothing, so the
    message advises to run the pipeline for what is missing.
    """
    if len(names) < 2:
        given = f"found only {quoted(*names)}" if names else "found none"
        way_out = "add class folders, or pass `extract_only` (the features are stored)"
        if only_reads:
            way_out = "name more classes with `classes`, or run the pipeline on images of more classes first"
        raise InputError(f"training needs at least two classes, but {given}; {way_out}")
    classes = only(classes, names)
    way_out = (
        "add images, change `validation_fraction` (if no folder or table gives the split), "
        "or pass `extract_only` (the features are stored)"
    )
    if only_reads:
        way_out = "name other classes with `classes`, or run the pipeline on more images first"
    for split in ("train", "validation"):
        if not classes.get(split):
            raise InputError(f"training needs images in the {split} split, which has none; {way_out}")
