"""Read the image files of a job."""

import os
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa

from storage.backend.bounded_read import read_file
from storage.backend.paths import Place, place
from storage.shards.view_ids import PLAIN
from vision.engines.extract import Image
from vision.pixels.decode import ImageError
from workers.jobs.records import ChunksJob


def images_of(todo: pa.Table, job: ChunksJob) -> Iterator[Image]:
    """The images of a chunk: digest, reader of its bytes, views. The reader of a condemned image raises ImageError."""
    root = place(job.space.images)
    condemned = {bytes.fromhex(digest): code for digest, code in job.condemned.items()}
    plain_only = {bytes.fromhex(digest) for digest in job.plain_only}
    columns = (todo[name].to_pylist() for name in ("digest", "path", "twins", "views"))
    for digest, path, twins, views in zip(*columns, strict=True):
        if digest in condemned:
            yield digest, partial(_refuse, condemned[digest]), views
        else:
            paths = path, *(twins or ())
            yield digest, partial(_read_any, root, paths, digest), [PLAIN] if digest in plain_only else views


def _refuse(code: str) -> bytes:
    raise ImageError(code, "it killed the worker process that processed it")


def _read_any(root: Place, paths: Sequence[bytes], digest: bytes) -> bytes:
    """The bytes of the first readable file with this digest. If there is none, raises the first file's ImageError."""
    errors = []
    for path in paths:
        try:
            return read_image(root, path, digest)
        except ImageError as error:
            errors.append(error)
    raise errors[0]


def read_image(root: Place, path: bytes, digest: bytes) -> bytes:
    """The bytes of a file. They must still have the digest that was listed, because their row is stored under it.

    Raises ImageError with the code `vanished`, `permission`, `read_error` or `changed`.
    """
    try:
        data, found = read_file(root, path)
    except FileNotFoundError as error:
        raise ImageError("vanished", str(error)) from error
    except PermissionError as error:
        raise ImageError("permission", str(error)) from error
    except OSError as error:
        raise ImageError("read_error", str(error)) from error
    if found != digest:
        raise ImageError("changed", f"{os.fsdecode(path)} changed after it was listed")
    return data
