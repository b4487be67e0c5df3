"""Errors of jobs and runners. `exit_status` is the status of the command that the error ends."""

from storage.errors import InputError, NoRoom, StorageError, StoreBusy, StoreDamaged, TooManyRemovals
from vision.errors import ExportError, SpecError, WeightsError

# Errors that a job raises on purpose. They keep their type on the way back, and a retry cannot help.
EXPECTED = {
    kind.__name__: kind
    for kind in (
        InputError,
        StorageError,
        StoreBusy,
        StoreDamaged,
        NoRoom,
        TooManyRemovals,
        SpecError,
        WeightsError,
        ExportError,
    )
}
# Python's errors that mean a bug: the same work raises them again.
CERTAIN = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError, ValueError)


class WorkerDied(RuntimeError):
    """A job's process ended or was killed before the job finished. A retry can help.

    code: `timeout` if the process was killed because it took too long, else `crashed`.
    """

    exit_status = 1

    def __init__(self, message: str, code: str = "crashed"):
        super().__init__(message)
        self.code = code


class PoolClosed(RuntimeError):
    """The run is ending, and its runner takes no more jobs. A retry cannot help."""

    exit_status = 1


class WorkerFailed(RuntimeError):
    """A job raised an unexpected error in another process. The log of that process has the traceback.

    can_help: whether a retry may succeed.
    """

    exit_status = 1

    def __init__(self, message: str, can_help: bool = True):
        super().__init__(message)
        self.can_help = can_help
