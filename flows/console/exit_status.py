"""The exit status of an error, and whether it needs a traceback."""

import shlex

from flows.console.evaluation import Evaluation
from flows.console.outcome import Outcome
from flows.console.predictions import Predictions
from storage.text import count

# Below this number of images, the fraction of bad ones means nothing.
SMALLEST_BUDGET = 10


class OverBudget(RuntimeError):
    """More images are unusable than --max-bad-fraction allows. The others are committed or predicted."""

    exit_status = 3


def exit_status(error: BaseException) -> int:
    """The `exit_status` of the error; 130 for an interrupt, 1 for any other error."""
    return 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_status", 1)


def is_foreseen(error: BaseException) -> bool:
    """Whether one line explains the error and the way out, or names the log to read, without a traceback."""
    return hasattr(error, "exit_status") or isinstance(error, OSError | KeyboardInterrupt)


def check_budget(outcome: Outcome, max_bad_fraction: float, store: str) -> None:
    """Raise OverBudget if too many of the version's images are quarantined."""
    if outcome.images >= SMALLEST_BUDGET and outcome.quarantined > max_bad_fraction * outcome.images:
        raise OverBudget(
            f"{_unusable(outcome.quarantined, outcome.images)}, more than --max-bad-fraction "
            f"{max_bad_fraction:g} allows; the others are committed as version {outcome.version}, but no head was trained. "
            f"`python -m storage show --store {shlex.quote(store)}` names them: repair or remove them, or raise the fraction"
        )


def _unusable(quarantined: int, images: int) -> str:
    return f"{quarantined:,} of {count(images, 'image')} {'is' if quarantined == 1 else 'are'} unusable"


def check_evaluation(outcome: Evaluation, max_bad_fraction: float) -> None:
    """Raise OverBudget if too many of the listed images are quarantined."""
    images = outcome.images + outcome.quarantined + outcome.pending
    if images >= SMALLEST_BUDGET and outcome.quarantined > max_bad_fraction * images:
        raise OverBudget(
            f"{_unusable(outcome.quarantined, images)}, more than --max-bad-fraction {max_bad_fraction:g} allows; "
            f"{outcome.report} has the figures of the others"
        )


def check_predictions(outcome: Predictions, max_bad_fraction: float) -> None:
    """Raise OverBudget if too many images are quarantined."""
    if outcome.images >= SMALLEST_BUDGET and outcome.quarantined > max_bad_fraction * outcome.images:
        raise OverBudget(
            f"{_unusable(outcome.quarantined, outcome.images)}, more than --max-bad-fraction "
            f"{max_bad_fraction:g} allows; {outcome.out} has the others, and the reason for each"
        )
