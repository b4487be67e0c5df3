"""Which of several trained heads a run speaks of and continues with. No Prefect here."""

import math
from collections.abc import Sequence
from dataclasses import replace

from storage.heads.current import current_head
from storage.layout import Store
from vision.study.confidence import Figures, lower_rate
from workers.jobs.records import HeadJob, HeadResult


def chosen(heads: Sequence[HeadResult]) -> int:
    """The place of the current one of the heads, else of the one that is best on the validation images.

    Accuracy decides, then loss, as in a comparison with the current head (workers/jobs/promote.py).
    """
    return max(range(len(heads)), key=lambda place: _rank(heads[place]))


def _rank(head: HeadResult) -> tuple[bool, bool, float, float]:
    loss = math.inf if head.val_loss is None else head.val_loss
    return head.is_promoted, head.diverged is None, head.val_accuracy, -loss


def as_they_stand(store: Store, heads: Sequence[HeadResult]) -> tuple[HeadResult, ...]:
    """The heads, of which a later one may have replaced an earlier one as the current head."""
    current = current_head(store)
    return tuple(replace(head, is_promoted=head.name == current) for head in heads)


def overconfident(jobs: Sequence[HeadJob], heads: Sequence[HeadResult]) -> str | None:
    """Advice if the head that was trained in epochs is far too sure beside the one that a solver fitted; else None."""
    pairs = {job.spec.has_epochs: (job, head) for job, head in zip(jobs, heads, strict=True)}
    if len(pairs) != 2:
        return None
    (job, own), (_, other) = pairs[True], pairs[False]
    if own.diverged or own.val_loss is None or other.val_loss is None:
        return None
    figures = Figures(own.val_accuracy, own.val_loss), Figures(other.val_accuracy, other.val_loss)
    return lower_rate(job.spec.kind, *figures, job.spec.rate)
