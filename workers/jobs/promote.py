"""Decides which head is the current one, by comparing the new and the current one on images new to both.

Runs in a child; no Prefect here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.classes import learnt
from storage.errors import StorageError, StoreDamaged
from storage.finite import is_finite
from storage.heads.current import current_head, promote_head
from storage.heads.registry import has_finite_loss, mark_ranked, model_file, read_head
from storage.layout import Store, unset_current
from storage.manifest.held_out import held_out_since, newest_version, trained_on, version_with
from storage.reading.samples import SampleTable, split_files, table_of
from storage.reading.stream import FeatureStream
from storage.text import count, first_few
from vision.training.evaluation import evaluate
from vision.training.head_model import load_head
from workers.jobs.divergence import promote_command
from workers.jobs.records import HeadJob, HeadResult
from workers.jobs.training_data import READING_BATCH, READING_MB, Samples


@dataclass(frozen=True)
class Decision:
    """Whether the new head is the current one, and why. why: None if there was nothing to decide."""

    is_promoted: bool
    why: str | None = None


@dataclass(frozen=True)
class Score:
    """The result of a head on some images. hits: number of correct predictions."""

    hits: int
    images: int
    loss: float | None

    def is_worse_than(self, other: "Score") -> bool:
        """Compare hits, then loss. A score whose loss is not finite is worse than any with a finite loss."""
        return self._rank < other._rank

    @property
    def _rank(self) -> tuple[bool, int, float]:
        return is_finite(self.loss), self.hits, -(self.loss or 0.0) if is_finite(self.loss) else 0.0

    def __str__(self) -> str:
        return f"{self.hits / self.images:.4f} (loss {self.loss:.4g})"


class NotComparable(Exception):
    """There is no image to compare both heads on. The message says why."""


class Unusable(Exception):
    """The current head cannot be used. The message says why."""


def promoted(job: HeadJob, result: HeadResult, data: Samples) -> HeadResult:
    """Decide whether the head of `job` is the current one, apply that to the store, and return it with the result."""
    store, current = job.space.store, current_head(job.space.store)
    decision = _decide(job, result, data, current)
    if decision.is_promoted and current != job.name:
        promote_head(store, job.name)
    elif current == job.name and not decision.is_promoted:
        unset_current(store)
    if job.promote != "never":
        mark_ranked(store, job.name)
    return replace(result, is_promoted=decision.is_promoted, promotion=decision.why)


def _decide(job: HeadJob, result: HeadResult, data: Samples, current: str | None) -> Decision:
    if result.diverged:
        is_kept = current == job.name and is_finite(result.val_loss)  # somebody promoted it by hand
        return Decision(is_kept, "the head is not promoted, because its training diverged")
    if current == job.name or job.promote == "never":
        return Decision(current == job.name)
    if current is None:
        return Decision(True)
    undo = f"`{promote_command(job.space.store, current)}` reverts this"
    if job.promote == "always":
        return Decision(True, f"the head replaces {current} without a comparison, as `promote` requests; {undo}")
    try:
        return Contest(job, result, data, current).decision()
    except Unusable as error:
        return Decision(True, f"the head replaces {current}, which cannot be used: {error}")


class Contest:
    """The comparison of a new head with the current one."""

    def __init__(self, job: HeadJob, result: HeadResult, data: Samples, current: str):
        self.job, self.result, self.data, self.current = job, result, data, current

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """The content of the current head's head.json. Raises Unusable if it is damaged or its loss is not finite."""
        try:
            record = read_head(self.job.space.store, self.current)
            record["fingerprint"], record["data_digest"], record["classes"], record["features"]["shape"]
            is_sound = has_finite_loss(record)
        except (StorageError, OSError, KeyError, TypeError) as error:
            raise Unusable(str(error)) from error
        if not is_sound:
            raise Unusable("its loss is not finite")
        return record

    @property
    def rival(self) -> Store:
        """The feature space of the current head."""
        return Store(self.job.space.store.root, self.record["fingerprint"])

    @property
    def replaces(self) -> str:
        """The command that makes the new head current after all."""
        return f"`{promote_command(self.job.space.store, self.job.name)}` replaces it"

    def decision(self) -> Decision:
        """The decision, with one line that also says how to reverse it. Raises Unusable."""
        known, classes = self.record["classes"], self.job.spec.classes
        undo = f"`{promote_command(self.job.space.store, self.current)}` reverts this"
        if set(known) != set(classes):
            reason = f"because it knows the classes {first_few(known)} and the new head {first_few(classes)}"
            if set(known) == set(learnt(self.data.version.classes)):
                return Decision(
                    False,
                    f"head {self.current} stays current without a comparison, {reason}; {self.replaces}",
                )
            return Decision(
                True,
                f"the head replaces {self.current} without a comparison, {reason}; {undo}",
            )
        try:
            own, other, note = self._scores()
        except NotComparable as error:
            return Decision(False, f"head {self.current} stays current without a comparison: {error}; {self.replaces}")
        figures = f"{own} against {other} on {count(own.images, 'validation image')} that neither was trained on{note}"
        if own.is_worse_than(other):
            return Decision(False, f"head {self.current} stays current: the new head has {figures}; {self.replaces}")
        return Decision(True, f"the head replaces {self.current}: it has {figures}; {undo}")

    def _scores(self) -> tuple[Score, Score, str]:
        """The scores of the new and the current head, and a note on the images. Raises NotComparable and Unusable."""
        version, store = self.data.version, self.job.space.store
        validation = split_files(store, version, "validation", self.job.spec.classes)
        unseen, note = self._unseen(validation)
        if self.rival == store:
            files, table = table_of(store, version, unseen, self.job.spec.classes)
            rivals = table_of(store, version, files, tuple(self.record["classes"]))[1]
        else:
            rivals, files = self._in_rival_space(unseen)
            table = table_of(store, version, files, self.job.spec.classes)[1]
            note += f"; {self.current} is of the feature space {self.rival.fingerprint}"
        other = self._current_score(rivals)
        if len(table) == validation.num_rows:
            accuracy, loss = self.result.val_accuracy, self.result.val_loss
            return Score(round(accuracy * len(table)), len(table), loss), other, note
        path = str(model_file(store, self.job.name))
        features = self.job.space.spec
        return self._score(load_head(path), store, table, features.shape, features.dtype), other, note

    def _unseen(self, validation: pa.Table) -> tuple[pa.Table, str]:
        """The validation files that neither head was trained on, and a note if the current head's version is gone.

        Raises NotComparable if there is no such file.
        """
        digests = validation["digest"].combine_chunks()
        store, version, note = self.job.space.store, self.data.version, ""
        unseen = pc.invert(trained_on(store, version, digests))
        if self.record["data_digest"] != version.data_digest:
            found = version_with(self.rival, self.record["version"], self.record["data_digest"])
            if found is not None:
                known = trained_on(*found, digests)
                unseen = pc.and_(unseen, pc.invert(known))
                reason = f"it was trained on {_all(pc.sum(known).as_py(), len(digests))} of this version"
            else:
                unseen = pc.and_(unseen, self._held_out_then(digests))
                reason = (
                    f"its version {self.record['version']} is gone from the store, and so is the record of which images "
                    "it was trained on"
                )
                note = f" (version {self.record['version']} is gone: images held out before {self.current} was trained)"
        else:
            reason = "every validation image is also a training image"
        files = validation.filter(unseen)
        if not files.num_rows:
            raise NotComparable(reason)
        return files, note

    def _held_out_then(self, digests: pa.Array) -> pa.Array:
        """Mask of the images held out when the current head was trained, according to its space's newest version."""
        newest = newest_version(self.rival)
        if newest is None:
            return pa.repeat(False, len(digests))
        ended = datetime.fromisoformat(self.record["created"]).timestamp()
        began = ended - float(self.record["metrics"]["train_seconds"])
        return held_out_since(self.rival, newest, int(began * 1e9), digests)

    def _in_rival_space(self, files: pa.Table) -> tuple[SampleTable, pa.Table]:
        """The samples of `files` in the current head's space, and those of `files` that have features there.

        Raises NotComparable if there are none.
        """
        newest = newest_version(self.rival)
        try:
            if newest is not None:
                found, rivals = table_of(self.rival, newest, files, tuple(self.record["classes"]))
                if found.num_rows:
                    return rivals, found
        except StorageError as error:
            raise NotComparable(str(error)) from error
        raise NotComparable(f"its feature space {self.rival.fingerprint} has no features of these images")

    def _current_score(self, table: SampleTable) -> Score:
        features = self.record["features"]
        try:
            head = load_head(str(model_file(self.job.space.store, self.current)))
            return self._score(head, self.rival, table, tuple(features["shape"]), features["dtype"])
        except StoreDamaged as error:
            if self.current in str(error):
                raise Unusable(str(error)) from error
            if self.rival == self.job.space.store:
                raise  # the damage is in the rows that were just trained on
            raise NotComparable(str(error)) from error
        except Exception as error:  # a missing or truncated file, or another Keras; each raises other types
            raise Unusable(str(error)) from error

    def _score(self, head: Any, store: Store, table: SampleTable, shape: tuple[int, ...], dtype: str) -> Score:
        memory_mb = min(self.job.spec.shuffle_memory_mb, READING_MB)
        rows = FeatureStream(store, table, READING_BATCH, None, memory_mb, read_threads=self.job.read_threads)
        found = evaluate(head, rows, shape, dtype, len(table.classes))
        return Score(int(np.trace(found.confusion)), len(table), found.loss)


def _all(number: int, of: int) -> str:
    return f"all {count(of, 'validation image')}" if number == of else f"{number:,} of {count(of, 'validation image')}"
