"""The files of a version that are most similar to a vector."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.reading.neighbours import nearest
from storage.reading.pooled_file import PooledVectors


@dataclass(frozen=True)
class SimilarFile:
    """A file of a version. similarity: the cosine of its pooled features and those of the query, from -1 to 1."""

    similarity: float
    path: bytes
    label: str
    split: str
    digest: bytes

    def record(self, path: str) -> dict:
        """As JSON types. path: as it is shown."""
        digest, similarity = self.digest.hex(), self.similarity
        return {"path": path, "class": self.label, "split": self.split, "digest": digest, "similarity": similarity}


def most_similar(
    vectors: PooledVectors,
    files: pa.Table,
    queries: np.ndarray,
    top: int,
    without: bytes | None = None,
) -> list[list[SimilarFile]]:
    """The `top` files most similar to each of (q, channels) queries: by similarity, then digest, then path.

    files: as `pooled_files` returns them, all or some. without: the path of a file that is no answer.
    """
    rows = files["row"].to_numpy()
    is_used = np.zeros(len(vectors), bool)
    is_used[rows] = True
    more = top if without is None else top + 1
    return [
        _files(files, rows, found, similarities, without)[:top]
        for found, similarities in nearest(vectors.average, queries, more, is_used)
    ]


def _files(
    files: pa.Table, rows: np.ndarray, found: np.ndarray, similarities: np.ndarray, without: bytes | None
) -> list[SimilarFile]:
    """The files of the rows that were found, in that order. Those of equal bytes share a row."""
    at = np.flatnonzero(np.isin(rows, found))
    place = {row: place for place, row in enumerate(found.tolist())}
    order = sorted(at.tolist(), key=lambda index: place[int(rows[index])])  # stable: files are in order of path
    return [
        SimilarFile(
            round(float(similarities[place[file["row"]]]), 6),
            file["path"],
            file["class"],
            file["split"],
            file["digest"],
        )
        for file in files.take(pa.array(order, pa.int64())).to_pylist()
        if file["path"] != without
    ]
