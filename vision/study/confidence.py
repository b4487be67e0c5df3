"""Whether a head is too sure of itself, by the evidence of another head on the same images."""

from dataclasses import dataclass

# A head is overconfident if another one is about as accurate with less than half of its loss: its mistakes are too certain.
OVERCONFIDENT = 2.0
SIMILAR = 0.05


@dataclass(frozen=True)
class Figures:
    """The figures of a head on the validation images."""

    accuracy: float
    loss: float


def lower_rate(kind: str, own: Figures, other: Figures, rate: float) -> str | None:
    """Advice for a head that was trained in epochs at a learning rate, beside a logistic one; None if it is not overconfident."""
    if abs(own.accuracy - other.accuracy) > SIMILAR or not own.loss > OVERCONFIDENT * other.loss:
        return None
    return (
        f"the {kind} head is overconfident: val_loss {own.loss:.4f} against {other.loss:.4f} of the logistic head at a similar "
        f"accuracy ({own.accuracy:.4f}, {other.accuracy:.4f}); a lower rate may do better, try `learning_rate={rate / 10:g}`"
    )
