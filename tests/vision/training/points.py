"""Trainings on clouds of points, which take a second: the data of the tests in this folder."""

import csv
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from vision.training.feeds import TrainingData
from vision.training.head import HeadSpec
from vision.training.loop import Trained, train

SHAPE = (1, 1, 8)


@dataclass
class Points:
    """Clouds of points, one a class, about 3 standard deviations apart; shuffled by epoch where a seed is given."""

    count: int
    classes: int = 2
    seed: int | None = None
    batch_size: int = 16
    dtype: str = "float16"
    apart: float = 3.0
    draw: int = 0
    asked: list[int] = field(default_factory=list)

    def __post_init__(self):
        random = np.random.default_rng(self.draw)
        self.labels = (np.arange(self.count) % self.classes).astype(np.uint16)
        values = random.normal(0, 1, (self.count, 8)) + self.apart * np.eye(8)[self.labels]
        self.features = values.reshape(-1, *SHAPE).astype(self.dtype)

    @property
    def steps(self) -> int:
        return -(-self.count // self.batch_size)

    def batches(
        self, epoch: int = 0, first_step: int = 0, *, epochs: int | None = 1
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number in count(epoch) if epochs is None else range(epoch, epoch + epochs):
            self.asked.append(number)
            order = np.arange(self.count)
            if self.seed is not None:
                order = np.random.default_rng((self.seed, number)).permutation(order)
            for start in range(first_step * self.batch_size, self.count, self.batch_size):
                pick = order[start : start + self.batch_size]
                yield self.features[pick], self.labels[pick]
            first_step = 0

    def numbered(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """In order, where there is no seed."""
        starts = range(0, self.count, self.batch_size)
        for start, batch in zip(starts, self.batches(), strict=True):
            yield np.arange(start, start + len(batch[1])), *batch


def trained(
    classes=2,
    seed=0,
    dtype="float16",
    training=None,
    validation=None,
    report=lambda record: None,
    logs=None,
    in_order=None,
    checkpoint=None,
    keeping=None,
    base=None,
    **options,
) -> Trained:
    spec = HeadSpec(("cat", "dog", "fox")[:classes], **{"epochs": 3} | options)
    points = training or Points(200, classes, seed, dtype=dtype)
    held_out = validation or Points(60, classes, draw=1, dtype=dtype)
    data = TrainingData(
        SHAPE,
        dtype,
        points,
        in_order or Points(200, classes, dtype=dtype),
        held_out,
        held_out,
        np.bincount(points.labels, minlength=classes),
    )
    with tempfile.TemporaryDirectory() as folder:
        return train(spec, data, seed, logs or Path(folder), report, checkpoint, keeping, base)


def rows_of(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))
