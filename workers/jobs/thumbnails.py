"""Thumbnails of images of a version, for a server: it decodes nothing itself. No Prefect here."""

import base64
from dataclasses import asdict, dataclass

from storage.backend.paths import place
from vision.report.thumbnails import thumbnail
from workers.jobs.pictures import made
from workers.jobs.records import Space


@dataclass(frozen=True)
class ThumbnailsJob:
    """space: of the files, with the folder of its images. files: (path, digest) of each, as hex digits."""

    space: Space
    files: tuple[tuple[str, str], ...]

    def record(self) -> dict:
        """The job as JSON types."""
        return asdict(self)

    @classmethod
    def of(cls, record: dict) -> "ThumbnailsJob":
        """From record(), also after JSON."""
        return cls(Space.of(record["space"]), tuple((path, digest) for path, digest in record["files"]))


def thumbnails(job: ThumbnailsJob) -> dict[str, list[str | None]]:
    """`thumbnails`: a JPEG of each file as base64; None if the file is not readable or its bytes have changed."""
    root, spec = place(job.space.images), job.space.spec
    pictures = [
        made(
            root, bytes.fromhex(path), bytes.fromhex(digest), lambda data: thumbnail(data, spec.exif, spec.sixteen_bit)
        )
        for path, digest in job.files
    ]
    return {"thumbnails": [base64.b64encode(picture).decode() if picture else None for picture, _ in pictures]}
