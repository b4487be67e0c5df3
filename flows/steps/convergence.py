"""Repeat a run's work: for images that arrive meanwhile, and for a commit that another run won.

A run that those images trigger waits for its turn, or is cancelled if its deployment says CANCEL_NEW.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from prefect.runtime import deployment

from flows.console.outcome import Outcome
from storage.errors import VersionConflict
from workers.jobs.records import ScanRecord

# Where images never stop arriving, the next run goes on.
ROUNDS = 5
# Files that are so young may still be written: a truncated one would count as unusable.
LOOKS = 20
PAUSE_SECONDS = 3.0


def until_current(
    work: Callable[[], tuple[Outcome, str]], look: Callable[[], ScanRecord | None], say: Callable[[str], None]
) -> Outcome:
    """Work until a look sees what was worked on, or ROUNDS are over; the outcome of all rounds together.

    work: gives its outcome, and the digest of the scan that it worked on. look: scans again; None where that fails, or
    is not to lead to more.
    """
    outcome, worked_on = work()
    for _ in range(ROUNDS - 1):
        if not _has_changed(look, worked_on):
            break
        say("the images have changed meanwhile: another round")
        later, worked_on = work()
        outcome = later.after(outcome)
    return outcome


def at_rest(look: Callable[[], ScanRecord]) -> ScanRecord:
    """A scan of images that have come to rest, or of whatever is there after a while."""
    for _ in range(LOOKS):
        scan = look()
        if scan.is_settled:
            break
        time.sleep(PAUSE_SECONDS)
    return scan


def _has_changed(look: Callable[[], ScanRecord | None], worked_on: str) -> bool:
    """Whether the images are others than were worked on; where they are, once they have come to rest, or after a while."""
    for _ in range(LOOKS):
        scan = look()
        if scan is None or scan.digest == worked_on:
            return False
        if scan.is_settled:
            break
        time.sleep(PAUSE_SECONDS)
    return True


T = TypeVar("T")


# So many runs would have to commit in a row, each within the time of one of our scans.
TRIES = 10


def until_committed(work: Callable[[], T], say: Callable[[str], None]) -> T:
    """Do `work`, from the scan to the commit, until its commit is the next version.

    The shards of an attempt that lost are in the store: the next one adopts what is still wanted of them. Raises
    VersionConflict after TRIES.
    """
    for _ in range(TRIES - 1):
        try:
            return work()
        except VersionConflict as conflict:
            say(f"{str(conflict).partition(';')[0]}: planning again")
    return work()


DEPLOYED_SECONDS = 24 * 3600.0


def is_deployed() -> bool:
    """Whether this is a run of a deployment."""
    return deployment.id is not None


def turn_seconds(wait_seconds: float) -> float:
    """What was asked for; else a day for a run of a deployment, which nobody starts again, and nothing for others."""
    return wait_seconds or (DEPLOYED_SECONDS if is_deployed() else 0.0)
