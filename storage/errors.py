"""Errors of images and stores. The message says what to do; the class carries the command's exit status."""


class StorageError(Exception):
    """A store or an image folder cannot be used. The message says why and what to do."""

    exit_status = 1


class InputError(StorageError):
    """The input is unusable as given: a missing folder, no images, only one class."""

    exit_status = 2


class TooManyRemovals(StorageError):
    """More live images are missing than the allowed fraction; nothing was committed."""

    exit_status = 4


class LayoutChanged(StorageError):
    """The folders give unmoved files other labels than the newest version does; nothing was committed."""

    exit_status = 4


class NoRoom(StorageError):
    """The disk has too little free space for what the run will write."""


class StoreBusy(StorageError):
    """Another run holds the store's lock."""

    exit_status = 5


class StoreDamaged(StorageError):
    """A file of the store does not match what the store records about it."""


class BytesDamaged(StoreDamaged):
    """Damage that only a read of every byte finds, as `repair --deep` does."""


class VersionConflict(StorageError):
    """Another run committed the next version first."""
