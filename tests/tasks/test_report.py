"""The report beside a head: the right picture behind each mistake, and no harm where there is none any more."""

import base64
import dataclasses
import json
import os
import re
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.heads import report_file
from storage.samples import SampleTable, files_of, pin
from storage.versions import Version
from storage.words import visible
from tasks.records import HeadJob
from tasks.report import write_report
from tests import odd, toy
from tests.storage.test_objects import images_of
from tests.vision.test_report import record
from vision.evaluation import Evaluation, Mistake
from vision.head import HeadSpec
from vision.images import ORIENTATION
from vision.report.thumbnails import thumbnail
from vision.specs import FeatureSpec

CLASSES = ("cats", "dogs")


@dataclass
class Case:
    """A version of a toy store, and an evaluation by which every validation image was a mistake."""

    images: Path
    job: HeadJob
    version: Version
    table: SampleTable

    @classmethod
    def of(cls, images: Path, store: Path) -> "Case":
        _, version = toy.run(images, store, validation_fraction=1.0)
        space = toy.space(images, store)
        job = HeadJob(space, 1, "a" * 32, HeadSpec(CLASSES), seed=0)
        return cls(images, job, version, pin(space.store, version, "validation", CLASSES, store))

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        labels = self.table.samples["class"].tolist()
        return tuple(Mistake(n, own, 1 - own, 0.9 - n / 100, 0.1 + n / 100) for n, own in enumerate(labels))

    def write(self) -> str | None:
        found = Evaluation(0.5, 0.5, np.array([[0, 9], [9, 0]]), self.mistakes)
        return write_report(self.job, self.version, record(CLASSES), found, self.table)

    def shown(self) -> list[tuple[str, bytes | None]]:
        """Path and thumbnail of each mistake on the page."""
        page = report_file(self.job.space.store, self.job.name).read_text()
        pairs = re.findall(r'<li>\s*<figure>(.*?)<p class="path"><bdi>(.*?)</bdi>', page, re.S)
        images = [re.search(r'<img src="data:image/jpeg;base64,([^"]*)"', figure) for figure, _ in pairs]
        pictures = [base64.b64decode(image[1]) if image else None for image in images]
        return list(zip((unescape(path.replace("<wbr>", "")) for _, path in pairs), pictures, strict=True))

    def paths(self) -> list[bytes]:
        store, samples = self.job.space.store, range(len(self.table))
        return [path for path, _ in files_of(store, self.version, "validation", self.table, samples)]

    def file(self, path: bytes) -> Path:
        return Path(os.fsdecode(os.path.join(os.fsencode(self.images), path)))


@pytest.fixture
def case(images, store) -> Case:
    odd.file(images, b"cats/caf\xe9 <b>&.png", 77)
    return Case.of(images, store)


def spec(**options) -> FeatureSpec:
    return dataclasses.replace(toy.SPEC, **options)


def test_behind_each_mistake_lies_its_own_file(case):
    assert case.write() == str(report_file(case.job.space.store, case.job.name))
    paths = case.paths()
    assert len(paths) == 21
    assert rb"cats/caf" in b"".join(paths)
    assert case.shown() == [(visible(path), thumbnail(case.file(path).read_bytes())) for path in paths]


def test_a_picture_is_turned_as_the_network_sees_it(images, store):
    pixels = np.random.default_rng(5).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[ORIENTATION] = 3
    Image.fromarray(pixels).save(images / "cats" / "turned.jpg", exif=turned)
    for exif in ("ignore", "apply"):
        case = Case.of(images, store)
        case.job = dataclasses.replace(case.job, space=dataclasses.replace(case.job.space, spec=spec(exif=exif)))
        case.write()
        shown = dict(case.shown())["cats/turned.jpg"]
        assert shown == thumbnail((images / "cats" / "turned.jpg").read_bytes(), exif)
        assert (shown == thumbnail((images / "cats" / "turned.jpg").read_bytes())) == (exif == "ignore")


def test_a_file_that_is_gone_changed_or_broken_since_is_named_without_a_picture(case):
    gone, changed, empty, *others = case.paths()
    case.file(gone).unlink()
    toy.picture(case.file(changed), seed=12345)
    case.file(empty).write_bytes(b"")
    case.write()
    shown = dict(case.shown())
    assert [shown[visible(path)] for path in (gone, changed, empty)] == [None] * 3
    assert all(shown[visible(path)] for path in others)
    page = report_file(case.job.space.store, case.job.name).read_text()
    assert page.count("the file is gone") == 1
    assert page.count("the file has other bytes by now") == 2


def test_a_file_that_cannot_be_decoded_is_named_without_a_picture(case, monkeypatch):
    """As when Pillow is another one: what it could read when features were extracted, it cannot now."""
    monkeypatch.setattr("vision.images.FORMATS", ("JPEG",))
    case.write()
    assert {picture for _, picture in case.shown()} == {None}
    page = report_file(case.job.space.store, case.job.name).read_text()
    assert page.count("the file cannot be decoded") == len(case.paths())


def test_a_report_that_cannot_be_written_is_a_warning(case, caplog):
    case.job.space.store.heads.mkdir()
    case.job.space.store.head(case.job.name).write_text("a file where the folder should be")
    assert case.write() is None
    assert f"head {case.job.name} has no report: " in caplog.text


def test_a_report_that_cannot_be_made_is_a_warning(case, caplog):
    case.version = dataclasses.replace(case.version, rows=("rows-" + "0" * 64 + ".parquet",))
    assert case.write() is None
    assert "has no report: StoreDamaged" in caplog.text


def test_the_report_of_images_in_a_bucket_shows_them_and_lies_there(bucket, tmp_path):
    photos = images_of(bucket)
    _, version = toy.run(photos, bucket / "store", validation_fraction=1.0)
    space = toy.space(photos, bucket / "store")
    table = pin(space.store, version, "validation", CLASSES, tmp_path)
    case = Case(tmp_path, HeadJob(space, 1, "a" * 32, HeadSpec(CLASSES), seed=0), version, table)
    assert case.write() == f"{bucket}/store/heads/{'a' * 32}/report.html"
    expected = [(visible(path), thumbnail((photos / path.decode()).read_bytes())) for path in case.paths()]
    assert case.shown() == expected


def test_the_record_on_the_page_may_have_gone_through_json(case):
    """What is in head.json is all that the page needs."""
    again = json.loads(json.dumps(record(CLASSES, has_test=True)))
    assert write_report(case.job, case.version, again, Evaluation(0, 1, np.eye(2)), case.table)
