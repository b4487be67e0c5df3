"""Which error ends with which exit status."""

import shlex

from flows.console.outcome import Outcome
from storage.errors import InputError, LayoutChanged, StorageError, StoreBusy, TooManyRemovals
from vision.errors import SpecError, WeightsError
from workers.runners.local import PoolClosed, WorkerDied, WorkerFailed

# Under so many images a share of bad ones says nothing.
SMALLEST_BUDGET = 10


class OverBudget(RuntimeError):
    """More images were unusable than --max-bad-fraction allows: what is good was committed, nothing trained."""


EXIT_STATUS = {
    InputError: 2,
    SpecError: 2,
    WeightsError: 2,
    OverBudget: 3,
    TooManyRemovals: 4,
    LayoutChanged: 4,
    StoreBusy: 5,
}


# What is said in one line, without a traceback: each of these names what happened, and the way out or the log to read.
FORESEEN = (*EXIT_STATUS, StorageError, WorkerDied, WorkerFailed, PoolClosed, OSError)


def exit_status(error: BaseException) -> int:
    """0 done; 1 ours or the machine's; 2 bad input; 3 over budget; 4 removals or other labels; 5 busy; 130 interrupted."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return next((status for kind, status in EXIT_STATUS.items() if isinstance(error, kind)), 1)


def check_budget(outcome: Outcome, max_bad_fraction: float, store: str) -> None:
    """Raise OverBudget where too many of the live images are quarantined."""
    if outcome.images >= SMALLEST_BUDGET and outcome.quarantined > max_bad_fraction * outcome.images:
        raise OverBudget(
            f"{outcome.quarantined} of {outcome.images} images could not be used, more than --max-bad-fraction "
            f"{max_bad_fraction:g} allows; the others are committed as version {outcome.version}, nothing was trained. "
            f"`python -m storage show --store {shlex.quote(store)}` names them: mend or remove them, or raise the fraction"
        )
