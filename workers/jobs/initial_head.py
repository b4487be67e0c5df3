"""The head that a training continues from at its initial epoch. No Prefect here."""

from dataclasses import replace

from storage.errors import InputError
from storage.heads.registry import list_heads, read_head
from storage.layout import Store
from storage.text import count
from vision.training.head import HeadSpec
from workers.jobs.head_identity import base_name, find_head, head_name


def with_initial_head(store: Store, fingerprint: str, data_digest: str, spec: HeadSpec, seed: int) -> HeadSpec:
    """The spec, with the head that its training continues from at `initial_epoch`.

    That is the head trained from the beginning, else the newest one that itself continued from another head.
    data_digest: as in `head_name`. Raises InputError if there is no such head, or if its training diverged.
    """
    head = spec.untuned
    if not head.initial_epoch:
        return spec
    found = find_head(store, str(base_name(fingerprint, data_digest, head, seed)))
    if found is None:
        chained = _chained(store, fingerprint, data_digest, head, seed)
        if chained is None:
            raise InputError(
                f"`initial_epoch`: no head was trained for {count(spec.initial_epoch, 'epoch')} with the same other options "
                f"on these images; train it first, with `epochs={spec.initial_epoch}`"
            )
        found, spec = find_head(store, chained), replace(spec, initial_head=chained)
    if found and found.diverged:
        raise InputError(f"`initial_epoch`: training cannot continue from epoch {spec.initial_epoch}: {found.diverged}")
    return spec


def _chained(store: Store, fingerprint: str, data_digest: str, spec: HeadSpec, seed: int) -> str | None:
    """The newest head, by its name of this spec, that continued from another one up to `initial_epoch`; else None."""
    for note in sorted(list_heads(store.root), key=lambda note: note.created, reverse=True):
        if note.fault or note.fingerprint != fingerprint:
            continue
        made = read_head(store, note.name)["head"]
        begun = {"initial_epoch": made.get("initial_epoch", 0), "initial_head": made.get("initial_head", "")}
        same = replace(spec, epochs=spec.initial_epoch, **begun)
        if begun["initial_epoch"] and head_name(fingerprint, data_digest, same, seed) == note.name:
            return note.name
    return None
