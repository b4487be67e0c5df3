"""The report of a head shows the right image behind each mistake, and does no harm if the image is gone."""

import base64
import dataclasses
import io
import json
import os
import re
from dataclasses import dataclass
from hashlib import sha256
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.heads.registry import report_file
from storage.manifest.versions import Version
from storage.reading.sample_files import files_of
from storage.reading.samples import SampleTable, pin
from storage.text import visible
from tests import odd, toy
from tests.storage.test_objects import images_of
from tests.vision.report.test_report import record
from vision.pixels.augment import augmented
from vision.pixels.augmentation import Augmentation, variant_keys
from vision.pixels.decode import ORIENTATION, decode
from vision.report.thumbnails import thumbnail
from vision.specs import FeatureSpec
from vision.training.evaluation import Evaluation, Mistake
from vision.training.head import HeadSpec
from workers.jobs.head_report import write_report
from workers.jobs.image_stream import epoch_keys
from workers.jobs.records import HeadJob

CLASSES = ("cats", "dogs")


@dataclass
class Case:
    """A version of a toy store, and an evaluation that calls every validation image a mistake."""

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

    def write(self, training: SampleTable | None = None) -> str | None:
        found = Evaluation(0.5, 0.5, np.array([[0, 9], [9, 0]]), self.mistakes)
        return write_report(self.job, self.version, record(CLASSES), found, self.table, training=training)

    @property
    def page(self) -> str:
        return report_file(self.job.space.store, self.job.name).read_text()

    def shown(self) -> list[tuple[str, bytes | None]]:
        """Path and thumbnail of each mistake on the page."""
        page = report_file(self.job.space.store, self.job.name).read_text()
        pairs = re.findall(r'<li>\s*<figure>(.*?)<p class="path"><bdi>(.*?)</bdi>', page, re.S)
        images = [re.search(r'<img src="data:image/jpeg;base64,([^"]*)"', figure) for figure, _ in pairs]
        pictures = [base64.b64decode(image[1]) if image else None for image in images]
        return list(zip((unescape(path.replace("<wbr>", "")) for _, path in pairs), pictures, strict=True))

    def augmented(self) -> list[tuple[str, str, list[np.ndarray]]]:
        """Path, class and pictures of each training image in the section of augmented images."""
        _, _, section = self.page.partition('<section aria-labelledby="augmented">')
        samples = re.findall(
            r"<figure>(.*?)<bdi>(.*?)</bdi>.*?<bdi>(.*?)</bdi>", section.partition("</section>")[0], re.S
        )
        return [
            (unescape(path.replace("<wbr>", "")), own, [pixels(data) for data in re.findall('base64,(.*?)"', figure)])
            for figure, own, path in samples
        ]

    def paths(self) -> list[bytes]:
        store, samples = self.job.space.store, range(len(self.table))
        return [path for path, _ in files_of(store, self.version, "validation", self.table, samples)]

    def file(self, path: bytes) -> Path:
        return Path(os.fsdecode(os.path.join(os.fsencode(self.images), path)))


def pixels(jpeg: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg)))).astype(float)


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
    assert page.count("the file no longer exists") == 1
    assert page.count("the file changed after it was listed") == 2


def test_a_file_that_cannot_be_decoded_is_named_without_a_picture(case, monkeypatch):
    """Another Pillow may be unable to decode what the one of the extraction could."""
    monkeypatch.setattr("vision.pixels.decode.FORMATS", ("JPEG",))
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
    """The page needs only what head.json contains."""
    again = json.loads(json.dumps(record(CLASSES, has_test=True)))
    assert write_report(case.job, case.version, again, Evaluation(0, 1, np.eye(2)), case.table)


# Augmented training images


AUGMENTATION = Augmentation(rotation_range=90, zoom_range=(0.4, 0.8), horizontal_flip=True, brightness_range=(0.4, 1.4))


@dataclass
class Training:
    """A version with nearly all images in training. They are smooth, so that their JPEGs can be told apart."""

    case: Case
    table: SampleTable

    @classmethod
    def of(cls, images: Path, store: Path, **options) -> "Training":
        for number in range(30):
            name = b"cats/caf\xe9 <b>&%d.png" % number
            path = Path(os.fsdecode(os.path.join(os.fsencode(images), odd.file(images, name, 70 + number))))
            corners = np.random.default_rng(number).integers(0, 256, (2, 2, 3), dtype=np.uint8)
            Image.fromarray(corners).resize((40, 30), Image.Resampling.BILINEAR).save(path)
        for number in range(10):
            for name in CLASSES:
                (images / name / f"{number:03d}.png").unlink()
        toy.picture(images / "dogs" / "only.png", 5)
        _, version = toy.run(images, store, validation_fraction=0.1)
        space = toy.space(images, store)
        head = HeadSpec(CLASSES, **{"augment": AUGMENTATION.text} | options)
        job = HeadJob(space, 1, "a" * 32, head, seed=11)
        tables = [pin(space.store, version, split, CLASSES, store) for split in ("validation", "train")]
        return cls(Case(images, job, version, tables[0]), tables[1])

    def files(self) -> dict[str, tuple[str, bytes]]:
        """Path → class and digest of every training image."""
        found = files_of(
            self.case.job.space.store, self.case.version, "train", self.table, samples := range(len(self.table))
        )
        labels = self.table.samples["class"][samples].tolist()
        return {visible(path): (CLASSES[own], digest) for own, (path, digest) in zip(labels, found, strict=True)}

    def check(self, keys_of) -> None:
        """Check that the page shows each image, then its augmentations by `keys_of` its digest, and nothing else."""
        files, shown = self.files(), self.case.augmented()
        assert len(shown) == 4
        for path, own, pictures in shown:
            assert own == files[path][0]
            digest, keys = files[path][1], keys_of(files[path][1])
            plain = decode(self.file(digest).read_bytes(), toy.SPEC.image_size)
            views = augmented(np.stack([plain] * len(keys)), AUGMENTATION.draw(keys, len(plain)), AUGMENTATION)
            assert len(pictures) == len(keys) + 1
            distances = np.array([[abs(one - other).mean() for other in (plain, *views)] for one in pictures])
            assert distances.argmin(axis=1).tolist() == list(range(len(pictures)))
            assert distances.diagonal().max() < 6

    def file(self, digest: bytes) -> Path:
        return next(path for path in self.case.images.glob("*/*") if sha256(path.read_bytes()).digest() == digest)


@pytest.mark.parametrize(("variants", "shown"), [(2, [1]), (4, [1, 2, 3]), (9, [1, 2, 3, 4])])
def test_the_page_shows_the_variants_that_were_trained_on(images, store, variants, shown):
    training = Training.of(images, store, variants=variants)
    assert training.case.write(training.table)
    training.check(lambda digest: variant_keys(AUGMENTATION.digest, digest, shown))
    assert f"has {variants} views in the store: the original and {variants - 1} augmented" in training.case.page
    assert f"variant {shown[-1]}</p>" in training.case.page
    assert f"variant {shown[-1] + 1}</p>" not in training.case.page


@pytest.mark.parametrize(
    ("options", "numbers", "period"),
    [
        ({"train_on": "images"}, [0, 1, 2, 3], "epoch"),
        ({"train_on": "images", "variants": 4}, [0, 1, 2, 3], "epoch"),
        ({"train_on": "images", "initial_epoch": 5}, [5, 6, 7, 8], "epoch"),
        ({"fine_tune": "block5", "variants": 4, "initial_epoch": 5}, [0, 1, 2, 3], "epoch"),
        ({"train_on": "images", "batch_size": 10, "steps_per_epoch": 1}, [0, 1], "pass"),
    ],
)
def test_the_page_shows_what_the_first_epochs_made_of_images(images, store, options, numbers, period):
    """In the last case the training has 6 epochs of one step, and a pass over the images takes three steps."""
    training = Training.of(images, store, **options)
    assert 20 < len(training.table) <= 30
    assert training.case.write(training.table)

    def keys(digest: bytes) -> np.ndarray:
        image = np.array([int.from_bytes(digest[:8], "little")], np.uint64)
        return np.concatenate([epoch_keys(11, number, image) for number in numbers])

    training.check(keys)
    assert f"Each {period} " in training.case.page
    assert f"{period} {numbers[-1] + 1}</p>" in training.case.page


def test_what_is_shown_is_spread_over_the_training_images(images, store):
    training = Training.of(images, store, variants=2)
    training.case.write(training.table)
    places = [list(training.files()).index(path) for path, _, _ in training.case.augmented()]
    quarter = len(training.table) / 4
    assert [int(place / quarter) for place in places] == [0, 1, 2, 3]


def test_of_a_training_image_that_is_gone_the_page_says_so(images, store):
    training = Training.of(images, store, variants=3)
    training.case.write(training.table)
    files = training.files()
    gone, changed, *others = [path for path, _, _ in training.case.augmented()]
    training.file(files[gone][1]).unlink()
    training.file(files[changed][1]).write_bytes(b"")
    training.case.write(training.table)
    shown = {path: len(pictures) for path, _, pictures in training.case.augmented()}
    assert shown == {gone: 0, changed: 0} | dict.fromkeys(others, 3)
    assert training.case.page.count("No pictures: the file no longer exists") == 1
    assert training.case.page.count("No pictures: the file changed after it was listed") == 1


@pytest.mark.parametrize(
    "options", [{"augment": ""}, {"augment": "", "variants": 3}, {"variants": 1}], ids=["none", "no text", "one view"]
)
def test_a_head_of_images_as_they_are_shows_none_that_are_augmented(images, store, options):
    training = Training.of(images, store, **options)
    assert training.case.write(training.table)
    assert "Augment" not in training.case.page


def test_without_its_training_images_a_report_has_no_augmented_ones(images, store):
    training = Training.of(images, store, variants=3)
    assert training.case.write()
    assert training.case.augmented() == []
