"""The pictures of mistakes in a report: each from its file as it is now. No Prefect here."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from storage.backend.paths import Place
from storage.reasons import FILE_FAULTS
from storage.text import visible
from vision.pixels.decode import ImageError
from vision.report.page import Shown
from vision.report.thumbnails import thumbnail
from vision.specs import FeatureSpec
from vision.training.evaluation import Mistake
from workers.jobs.files import read_image

T = TypeVar("T")


def shown_mistakes(
    mistakes: Sequence[Mistake],
    files: Iterable[tuple[bytes, bytes]],
    classes: Sequence[str],
    root: Place | None,
    spec: FeatureSpec,
) -> Iterator[Shown]:
    """The mistakes with their pictures. files: (path, digest) of each. classes: in index order. root: None if it is not known."""
    names = tuple(map(visible, classes))
    for mistake, (path, digest) in zip(mistakes, files, strict=True):
        picture, fault = made(root, path, digest, lambda data: thumbnail(data, spec.exif, spec.sixteen_bit))
        yield Shown(
            own=names[mistake.label],
            predicted=names[mistake.predicted],
            own_score=mistake.own_score,
            score=mistake.score,
            path=visible(path),
            thumbnail=picture,
            fault=fault,
        )


def made(root: Place | None, path: bytes, digest: bytes, make: Callable[[bytes], T]) -> tuple[T | None, str]:
    """What `make` returns for the image with this digest, or None with the reason."""
    if root is None:
        return None, "the image folder is not known"
    try:
        return make(read_image(root, path, digest)), ""
    except ImageError as error:
        return None, FILE_FAULTS.get(error.code, "the file cannot be decoded")
