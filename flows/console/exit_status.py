"""The exit status of an error, and whether it needs a traceback."""

import shlex

from flows.console.outcome import Outcome

# Under so many images a share of bad ones says nothing.
SMALLEST_BUDGET = 10


class OverBudget(RuntimeError):
    """More images were unusable than --max-bad-fraction allows: what is good was committed, nothing trained."""

    exit_status = 3


def exit_status(error: BaseException) -> int:
    """The status that the error's class names (`exit_status`); 130 for an interrupt, 1 for all else."""
    return 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_status", 1)


def is_foreseen(error: BaseException) -> bool:
    """Whether one line tells what happened and the way out, or the log to read: no traceback is needed."""
    return hasattr(error, "exit_status") or isinstance(error, OSError | KeyboardInterrupt)


def check_budget(outcome: Outcome, max_bad_fraction: float, store: str) -> None:
    """Raise OverBudget where too many of the live images are quarantined."""
    if outcome.images >= SMALLEST_BUDGET and outcome.quarantined > max_bad_fraction * outcome.images:
        raise OverBudget(
            f"{outcome.quarantined} of {outcome.images} images could not be used, more than --max-bad-fraction "
            f"{max_bad_fraction:g} allows; the others are committed as version {outcome.version}, nothing was trained. "
            f"`python -m storage show --store {shlex.quote(store)}` names them: mend or remove them, or raise the fraction"
        )
