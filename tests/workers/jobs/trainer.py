"""A toy store, and trainings on it."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from storage.layout import Store
from storage.manifest.versions import Version
from tests import toy
from vision.training.head import HeadSpec
from workers.jobs.head_identity import head_name
from workers.jobs.records import HeadJob, HeadResult
from workers.runners.base import Runner

SPEC = HeadSpec(("cats", "dogs"), epochs=2, batch_size=8)
NOTHING = 1e-30  # a step so short that it moves no float32 weight, and a bias of 0 only to a negligible value


@dataclass
class Trainer:
    """A store with a version, and the runner that trains on it."""

    images: Path
    root: Path
    version: Version
    workers: Runner
    result: HeadResult | None = None
    heard: list[dict] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return toy.space(self.images, self.root).store

    def job(self, seed: int = 0, **options) -> HeadJob:
        space, spec = toy.space(self.images, self.root), dataclasses.replace(SPEC, **options)
        return HeadJob(space, 1, head_name(space.fingerprint, self.version.data_digest, spec, seed), spec, seed)

    def train(self, job: HeadJob, on_epoch=lambda record: None) -> HeadResult:
        with self.workers.lease() as worker:
            return HeadResult(**worker.call("head", job.record(), on_epoch))
