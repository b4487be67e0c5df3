"""Label new pictures with a head of a store, from Python:

from workers.classifier import Classifier

classifier = Classifier.load("photos-store")
for prediction in classifier.predict(["a.jpg", "b.png"]):
    print(prediction.label, prediction.probability)
"""

import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import PIL.Image

from storage.backend.bounded_read import LARGEST_FILE, open_file
from storage.backend.paths import place
from storage.reasons import FILE_FAULTS
from storage.shards.view_ids import PLAIN
from vision.engines.extract import Image
from vision.engines.selection import EngineName
from vision.pixels.decode import ImageError
from workers.jobs.opened_head import OpenedHead, open_head
from workers.jobs.predictor import Predictor
from workers.jobs.records import Space
from workers.jobs.spaces import computable_space

Picture: TypeAlias = str | os.PathLike[str] | bytes | PIL.Image.Image | np.ndarray
PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
DEEP = ("I", "I;16B", "I;16L")  # greys of more than 8 bits; modes other than these are converted to RGB


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture.

    status: `ok`, `quarantined` (these bytes can never be used) or `pending` (the file could not be read now). label: the most
    probable class, and `probability` that of it; None unless ok. probabilities: one per class, in the order of
    `Classifier.classes`; empty unless ok. reason: a code of docs/images.md, and `message` its details; None if ok.
    """

    status: str
    label: str | None
    probability: float | None
    probabilities: tuple[float, ...]
    reason: str | None = None
    message: str | None = None


class Classifier:
    """A trained head with the network in front of it, in this process. Threads may share it.

    A hostile picture may end the process that decodes it. `flows/predict.py` and `serving/` therefore decode in child
    processes; this class does not.
    """

    def __init__(self, head: OpenedHead, space: Space, engine: EngineName = "auto", threads: int = 1):
        self.head = head
        self._predictor = Predictor(head, space, engine, threads)

    @classmethod
    def load(
        cls,
        store: str | os.PathLike[str],
        head: str | None = None,
        engine: EngineName = "auto",
        threads: int = 1,
        weights: str | None = None,
    ) -> "Classifier":
        """Load a head of the store at a path or URI, by default the current one.

        engine: what computes the features. threads: CPU threads; with one, as in extraction, features equal stored ones to the
        last bit. weights: `imagenet`, `random` or a
        path, once for a store that does not keep its weights. Raises InputError, StoreDamaged, SpecError or WeightsError,
        each with the way out.
        """
        root = place(os.fspath(store))
        opened = open_head(root, head)
        return cls(opened, computable_space(root, opened.spec, weights), engine, threads)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in the order of the probabilities."""
        return self.head.classes

    @property
    def fingerprint(self) -> str:
        """The feature space that the head was trained on."""
        return self.head.fingerprint

    @property
    def engine(self) -> str:
        """The library that computes the features, with its version."""
        return self._predictor.engine_name

    def predict(self, pictures: Picture | Iterable[Picture]) -> list[Prediction]:
        """Predict one picture or several. Each answer stands at the place of its picture.

        A picture is a path, the bytes of a file, a Pillow image, or an array: (height, width) or (height, width, 3 or 4) uint8.
        What cannot be read gets a reason instead of a class. Raises TypeError for anything else.
        """
        if isinstance(pictures, str | os.PathLike | bytes | PIL.Image.Image | np.ndarray):
            pictures = [pictures]
        return list(self.stream(pictures))

    def stream(self, pictures: Iterable[Picture]) -> Iterator[Prediction]:
        """Predict any number of pictures in constant memory."""
        for found in self._predictor.in_groups(map(_image, enumerate(pictures))):
            answers = {
                key: self._answer(row) for key, row in zip(found.keys, found.probabilities.tolist(), strict=True)
            }
            answers |= {key: _refusal(*error) for key, error in found.errors.items()}
            yield from (answers[key] for key in sorted(answers))

    def predict_features(self, features: np.ndarray) -> np.ndarray:
        """(n, *shape) features of this feature space → (n, classes) float32 probabilities."""
        return self._predictor.by_features(features)

    def _answer(self, probabilities: list[float]) -> Prediction:
        best = int(np.argmax(probabilities))
        return Prediction("ok", self.classes[best], probabilities[best], tuple(probabilities))


def _refusal(code: str, message: str) -> Prediction:
    return Prediction("pending" if code in FILE_FAULTS else "quarantined", None, None, (), code, message)


def _image(numbered: tuple[int, Picture]) -> Image:
    number, picture = numbered
    if isinstance(picture, np.ndarray):
        picture = PIL.Image.fromarray(_checked(picture))
    elif not isinstance(picture, str | os.PathLike | bytes | PIL.Image.Image):
        raise TypeError(f"a picture is a path, bytes, a Pillow image or an array, not {type(picture).__name__}")
    return number.to_bytes(8, "big"), partial(read_picture, picture), [PLAIN]


def _checked(array: np.ndarray) -> np.ndarray:
    is_picture = array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)))
    if not is_picture or not array.size:
        raise TypeError(
            f"expected (height, width) or (height, width, 3 or 4) uint8, got {array.shape} {array.dtype}; "
            "pass several pictures as a list"
        )
    return array


def read_picture(picture: str | os.PathLike[str] | bytes | PIL.Image.Image) -> bytes:
    """The bytes of a file with this picture. Raises ImageError."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, PIL.Image.Image):
        return _lossless(picture)
    try:
        with open_file(os.fsencode(Path(picture))) as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError as error:
        raise ImageError("vanished", str(error)) from error
    except PermissionError as error:
        raise ImageError("permission", str(error)) from error
    except OSError as error:
        raise ImageError("read_error", str(error)) from error
    if len(data) > LARGEST_FILE:
        raise ImageError("too_many_pixels", "the file is larger than any image")
    return data


def _lossless(picture: PIL.Image.Image) -> bytes:
    """A file with every pixel and the EXIF of a Pillow image, so that it is decoded as a file would be."""
    sink = io.BytesIO()
    try:
        whole = picture
        if picture.mode not in PNG_MODES:
            whole = picture.convert("I;16" if picture.mode in DEEP else "RGB")
        exif = picture.getexif()
        if whole.mode == "RGB" and not exif:
            whole.save(sink, "BMP")  # 18 times as fast as PNG
        else:
            whole.save(sink, "PNG", compress_level=0, exif=exif)
    except Exception as error:  # a picture that was opened lazily is read here
        raise ImageError("decode_error", f"{type(error).__name__}: {error}") from error
    return sink.getvalue()
