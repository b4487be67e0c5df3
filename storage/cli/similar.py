"""The command `similar`: the images of a version that look most like a picture, by the cosine of pooled features."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.backend.bounded_read import LARGEST_FILE, open_file
from storage.backend.paths import at_home
from storage.cli.commands import describe, say
from storage.errors import InputError, StorageError
from storage.layout import Store
from storage.manifest.select import chosen_version, one_space
from storage.manifest.versions import Version
from storage.reading.pooled import is_pooled, pooled_files, pooled_vectors
from storage.reading.pooled_file import PooledVectors
from storage.reading.similar_files import most_similar
from storage.schemas import DIGEST
from storage.text import columns, visible

# What computes the features of a picture that the store does not have. This room must not import it, and it loads an
# engine, so it runs in a process of its own.
COMPUTE = "workers.picture_vectors"


@dataclass(frozen=True)
class Query:
    """The picture that is asked about. stored: what the store knows about it. path: in the store; None if it is a file."""

    vector: np.ndarray
    stored: str
    path: bytes | None
    digest: bytes


def similar(options: argparse.Namespace) -> Iterator[str]:
    """Yield the most similar images as a table, or as one JSON object."""
    store = one_space(options.store, options.space)
    version = chosen_version(store, options.version)
    if not is_pooled(store, version):
        say(f"pooling the features of version {version.number} once; later questions take a second")
    vectors = pooled_vectors(store, version, check=("average",))
    files = pooled_files(store, version, vectors)
    query = _query(store, version, vectors, files, options.image)
    (found,) = most_similar(vectors, files, query.vector[None], options.top, query.path)
    if options.json:
        record = {
            "image": options.image,
            "version": version.number,
            "stored": query.stored,
            "digest": query.digest.hex(),
        }
        yield json.dumps(record | {"similar": [one.record(visible(one.path)) for one in found]}, allow_nan=False)
        return
    yield f"{visible(os.fsencode(options.image))}: {query.stored} (version {version.number})"
    rows = [(f"{one.similarity:.4f}", visible(one.label), one.split, visible(one.path)) for one in found]
    yield from columns([("similarity", "class", "split", "image"), *rows], right="r")


def _query(store: Store, version: Version, vectors: PooledVectors, files: pa.Table, image: str) -> Query:
    """The vector of a path in the store, or of a file. A file whose bytes the store has is not computed again."""
    path = os.fsencode(image)
    named = files.filter(pc.equal(files["path"], pa.scalar(path, pa.binary())))
    if named.num_rows:
        file = named.to_pylist()[0]
        stored = f"{visible(file['class'])}, {file['split']}"
        return Query(np.array(vectors.average[file["row"]]), stored, path, file["digest"])
    digest = _digest(version, image)
    same = files.filter(pc.equal(files["digest"], pa.scalar(digest, DIGEST))).slice(0, 1).to_pylist()
    if same:
        return Query(
            np.array(vectors.average[same[0]["row"]]), f"has the bytes of {visible(same[0]['path'])}", None, digest
        )
    return Query(_computed(store, at_home(image)), "not in the store", None, digest)


def _digest(version: Version, image: str) -> bytes:
    try:
        with open_file(os.fsencode(at_home(image))) as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(
            f"{visible(os.fsencode(image))} is no usable image of version {version.number}, and no file: {describe(error)}"
        ) from error
    return hashlib.sha256(data).digest()


def _computed(store: Store, image: str) -> np.ndarray:
    """(channels,) the average of the features of a file, computed in a process of its own. Raises StorageError."""
    command: Sequence[str] = (sys.executable, "-m", COMPUTE, str(store.root), store.fingerprint, os.path.abspath(image))
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with status {done.returncode}"]
        kind = InputError if done.returncode == InputError.exit_status else StorageError
        raise kind(lines[-1].removeprefix("error: "))
    return np.array(json.loads(done.stdout.splitlines()[-1])["average"], np.float32)
