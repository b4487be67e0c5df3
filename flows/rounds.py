"""Images that arrive while a run works: it looks again before it ends, and takes another round where it sees others.

The run that such images trigger waits for its turn, or is cancelled where a deployment says CANCEL_NEW.
"""

import time
from collections.abc import Callable

from flows.outcome import Outcome
from tasks.records import ScanRecord

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
