"""Errors of images and stores: the message says what to do, the class has the exit status of the command."""


class StorageError(Exception):
    """A store or an image folder could not be used; the message says why and what to do."""

    exit_status = 1


class InputError(StorageError):
    """The input cannot work as given: a missing folder, no images, one class only."""

    exit_status = 2


class TooManyRemovals(StorageError):
    """More of the live images are gone than the run was told to believe; nothing was committed."""

    exit_status = 4


class LayoutChanged(StorageError):
    """The folders would label files that are where they were otherwise than the newest version; nothing was committed."""

    exit_status = 4


class NoRoom(StorageError):
    """What a run has to write does not fit on the disk."""


class StoreBusy(StorageError):
    """Another run holds the store."""

    exit_status = 5


class StoreDamaged(StorageError):
    """A file of the store is not what the store says it is."""


class BytesDamaged(StoreDamaged):
    """The same, where only whoever reads every byte finds it: `repair --deep` does."""


class VersionConflict(StorageError):
    """Somebody else committed the next version first."""
