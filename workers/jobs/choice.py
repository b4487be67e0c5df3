"""Which of several trained heads a run speaks of and continues with. No Prefect here."""

import math
from collections.abc import Sequence
from dataclasses import replace

from storage.finite import is_finite
from storage.heads.current import current_head
from storage.layout import Store
from workers.jobs.records import HeadJob, HeadResult

# A head is overconfident if another one is about as accurate with less than half of its loss: its mistakes are too certain.
OVERCONFIDENT = 2.0
SIMILAR = 0.05


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
    (job, head), (_, other) = pairs[True], pairs[False]
    if head.diverged or not (is_finite(head.val_loss) and is_finite(other.val_loss)):
        return None
    is_similar = abs(head.val_accuracy - other.val_accuracy) <= SIMILAR
    if not is_similar or head.val_loss <= OVERCONFIDENT * other.val_loss:  # type: ignore[operator]
        return None
    return (
        f"the {job.spec.kind} head is overconfident: val_loss {head.val_loss:.4f} against {other.val_loss:.4f} of the logistic head "
        f"at a similar accuracy ({head.val_accuracy:.4f}, {other.val_accuracy:.4f}); a lower rate may do better, try "
        f"`learning_rate={job.spec.rate / 10:g}`"
    )
