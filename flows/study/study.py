"""The trainings of a study."""

from dataclasses import dataclass

from storage.heads.registry import read_head
from storage.text import count
from vision.study.trainings import Row, row_of
from workers.jobs.head_identity import find_head
from workers.jobs.records import HeadJob, Space, VersionRecord


@dataclass(frozen=True)
class Study:
    """The trainings of a study on one version of a feature space. title: of its report."""

    space: Space
    version: VersionRecord
    jobs: tuple[HeadJob, ...]
    title: str

    def missing(self) -> list[HeadJob]:
        """The trainings whose heads do not exist yet."""
        return [job for job in self.jobs if find_head(self.space.store, job.name) is None]

    def notes(self) -> list[str]:
        """Remarks on the batch sizes."""
        images = sum(self.version.classes["train"].values())
        if all(job.spec.batch_size <= images for job in self.jobs if job.spec.has_epochs):
            return []
        return [
            f"batch sizes over the {count(images, 'training image')} are one training, with a batch size of {images:,}"
        ]

    def rows(self) -> list[Row]:
        """The result of each training, in the order of `jobs`. Every head must exist."""
        return [row_of(job.name, read_head(self.space.store, job.name)) for job in self.jobs]
