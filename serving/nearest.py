"""The training pictures that are most similar to an answered image: why the head may have answered so."""

import asyncio
import base64
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.batcher import Answer
from serving.pool import Pool
from storage.errors import InputError
from storage.layout import Store
from storage.manifest.versions import Version, latest_version, read_version, version_numbers
from storage.reading.pooled import pooled_files, pooled_vectors
from storage.reading.pooled_file import PooledVectors
from storage.reading.similar_files import SimilarFile, most_similar
from storage.text import visible
from workers.jobs.opened_head import OpenedHead

logger = logging.getLogger(__name__)

MOST = 24  # of one image


@dataclass(frozen=True)
class Known:
    """The training files of a version, and the vectors of its images."""

    vectors: PooledVectors
    files: pa.Table


class TrainingPictures:
    """Finds neighbours of answers. Loading pools the features once; until then, and if they cannot be read, there are none."""

    def __init__(self, head: OpenedHead, store: Store, pool: Pool):
        self._head, self._store, self._pool = head, store, pool
        self._thread = ThreadPoolExecutor(1, "nearest")  # a question takes milliseconds of all cores
        self._known: Known | None = None
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            self._known = await asyncio.get_running_loop().run_in_executor(
                self._thread, _known, self._store, self._head.version
            )
        except Exception as error:
            logger.warning("answers have no neighbours: %s", error)

    async def ready(self) -> None:
        """Wait until the features are loaded, or could not be."""
        await asyncio.wait([self._loading])

    async def of(self, answers: Sequence[Answer], top: int) -> list[list[dict[str, Any]] | None]:
        """The `top` nearest training pictures of each answer as JSON types; None where they are not known."""
        known, asked = self._known, [answer.vector for answer in answers if answer.vector is not None]
        nothing: list[list[dict[str, Any]] | None] = [None] * len(answers)
        if known is None or not asked or not top:
            return nothing
        try:
            rest = iter(await self._nearest(known, asked, top))
        except Exception as error:  # the answers themselves are there
            logger.warning("answers have no neighbours: %s", error)
            return nothing
        return [None if answer.vector is None else next(rest) for answer in answers]

    async def _nearest(self, known: Known, asked: Sequence[str], top: int) -> list[list[dict[str, Any]]]:
        queries = np.stack([np.frombuffer(base64.b64decode(vector), "<f4") for vector in asked])
        found = await asyncio.get_running_loop().run_in_executor(
            self._thread, most_similar, known.vectors, known.files, queries, top
        )
        pictures = await self._pool.thumbnails(sorted({(file.path, file.digest) for near in found for file in near}))
        return [[_shown(file, pictures) for file in near] for near in found]

    def close(self) -> None:
        """Let go of the features."""
        self._loading.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _known(store: Store, number: int) -> Known:
    """The training files that a head was trained on. Raises StorageError if their features cannot be read."""
    version = _version(store, number)
    vectors = pooled_vectors(store, version, check=("average",))
    files = pooled_files(store, version, vectors)
    return Known(vectors, files.filter(pc.equal(files["split"], "train")))


def _version(store: Store, number: int) -> Version:
    """The version, or the newest one if it was collected."""
    if number in version_numbers(store):
        return read_version(store, number)
    newest = latest_version(store)
    if newest is None:
        raise InputError(f"feature space {store.fingerprint} has no version")
    logger.warning("version %d of the head is gone: neighbours come from version %d", number, newest.number)
    return newest


def _shown(file: SimilarFile, pictures: dict[tuple[bytes, bytes], str]) -> dict[str, Any]:
    return {
        "path": visible(file.path),
        "class": file.label,
        "similarity": file.similarity,
        "thumbnail": pictures.get((file.path, file.digest)),
    }
