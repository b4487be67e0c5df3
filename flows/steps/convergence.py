"""Repeat a run's work when images arrive meanwhile, and when another run commits first.

Images that arrive during a run also trigger the next run. That run waits for its turn, or is cancelled if its
deployment says CANCEL_NEW.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from prefect.runtime import deployment

from flows.console.outcome import Outcome
from storage.errors import VersionConflict
from workers.jobs.records import ScanRecord

# If images never stop arriving, the next run continues.
ROUNDS = 5
# A young file may be incomplete, and a truncated image would count as unusable. So the scan repeats until files settle.
LOOKS = 20
PAUSE_SECONDS = 3.0


def until_current(
    work: Callable[[], tuple[Outcome, str]], look: Callable[[], ScanRecord | None], say: Callable[[str], None]
) -> Outcome:
    """Repeat the work until a scan finds no change, at most ROUNDS times. Returns the outcome of all rounds together.

    work: returns its outcome and the digest of the scan it worked on. look: scans again; returns None if the scan
    fails or must not lead to another round.
    """
    outcome, worked_on = work()
    for _ in range(ROUNDS - 1):
        if not _has_changed(look, worked_on):
            break
        say("images changed during the run; starting another round")
        later, worked_on = work()
        outcome = later.after(outcome)
    return outcome


def at_rest(look: Callable[[], ScanRecord]) -> ScanRecord:
    """Scan until the images have settled, at most LOOKS times. Returns the last scan."""
    for _ in range(LOOKS):
        scan = look()
        if scan.is_settled:
            break
        time.sleep(PAUSE_SECONDS)
    return scan


def _has_changed(look: Callable[[], ScanRecord | None], worked_on: str) -> bool:
    """Whether the images differ from those worked on. If they do, wait until they settle, for at most LOOKS scans."""
    for _ in range(LOOKS):
        scan = look()
        if scan is None or scan.digest == worked_on:
            return False
        if scan.is_settled:
            break
        time.sleep(PAUSE_SECONDS)
    return True


T = TypeVar("T")


# To use up all tries, this many other runs would have to commit in a row, each during one of our attempts.
TRIES = 10


def until_committed(work: Callable[[], T], say: Callable[[str], None]) -> T:
    """Repeat `work`, from the scan to the commit, until its commit becomes the next version.

    A lost attempt leaves its shards in the store, and the next attempt adopts the rows it still needs. Raises
    VersionConflict after TRIES attempts.
    """
    for _ in range(TRIES - 1):
        try:
            return work()
        except VersionConflict as conflict:
            say(f"{str(conflict).partition(';')[0]}; planning again")
    return work()


DEPLOYED_SECONDS = 24 * 3600.0


def is_deployed() -> bool:
    """Whether this run belongs to a deployment."""
    return deployment.id is not None


def turn_seconds(wait_seconds: float) -> float:
    """Seconds to wait for the store: `wait_seconds` if set, otherwise a day for a deployment's run and 0 for others.

    Nobody restarts a deployment's run, so it waits.
    """
    return wait_seconds or (DEPLOYED_SECONDS if is_deployed() else 0.0)
