"""The image stream gives the samples of a feature stream in the same order, from the images in the folder."""

import hashlib
import os
import shutil
import threading
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import InputError
from storage.layout import Store
from storage.manifest.versions import Version
from storage.reading.sample_files import pin_files
from storage.reading.samples import SampleTable, pin
from storage.reading.stream import FeatureStream
from storage.schemas import DIGEST
from tests import toy
from tests.examples import examples
from vision.engines.parallel import ParallelEngine
from vision.pixels.augmentation import Augmentation
from vision.pixels.decode import ImageError, decode
from vision.runtime import prepare_tensorflow
from workers.jobs.files import read_image
from workers.jobs.image_stream import MOST_GONE, ImageStream, epoch_keys

CLASSES = ("cats", "dogs")
TURN = Augmentation(rotation_range=40.0, horizontal_flip=True)
Batch = tuple[np.ndarray, ...]


class Stored:
    """A version of toy images, and streams over its training samples."""

    version: Version

    def __init__(self, images: Path, root: Path):
        self.images, self.root = images, root
        _, self.version = toy.run(images, root, validation_fraction=0.3, chunk_size=5)
        self.table: SampleTable = pin(self.store, self.version, "train", CLASSES, root / "pinned")
        self.files: pa.Table = pin_files(self.store, self.version, "train", self.table, root / "pinned")

    @property
    def store(self) -> Store:
        return toy.space(self.images, self.root).store

    def rows(self, batch_size: int = 4, seed: int | None = 3, **options: Any) -> FeatureStream:
        return FeatureStream(self.store, self.table, batch_size, seed, 1, **options)

    def stream(self, augmentation: Augmentation | None = None, **options: Any) -> ImageStream:
        return ImageStream(self.rows(**options), self.files, self.images, toy.ToyEngine(), augmentation)

    def path(self, place: int) -> Path:
        """The file of a sample. place: position of the sample in the table."""
        return self.images / os.fsdecode(self.files["path"][place].as_py())

    def spoil(self, place: int, how: str) -> None:
        """Delete the file of a sample (`vanished`), change its bytes (`changed`), or list it with bytes of no image."""
        if how == "vanished":
            self.path(place).unlink()
        elif how == "changed":
            toy.picture(self.path(place), seed=9_999)
        else:
            self.path(place).write_bytes(b"no picture")
            digests = self.files["digest"].to_pylist()
            digests[place] = hashlib.sha256(b"no picture").digest()
            self.files = self.files.set_column(1, "digest", pa.array(digests, DIGEST))


@pytest.fixture
def stored(images: Path, store: Path) -> Stored:
    """About fourteen training images. One of them exists three times, in both classes."""
    shutil.copy(images / "cats/003.png", images / "cats/twin.png")
    shutil.copy(images / "cats/003.png", images / "dogs/stray.png")
    return Stored(images, store)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Augmentation without Keras, to save the time of loading it."""
    toy.without_keras(monkeypatch)


def same(one: list[Batch], other: list[Batch]) -> bool:
    """Whether the batches are equal to the bit, with the same dtypes."""
    return len(one) == len(other) and all(
        a.dtype == b.dtype and np.array_equal(a, b)
        for pair in zip(one, other, strict=True)
        for a, b in zip(*pair, strict=True)
    )


def by_sample(stored: Stored, stream: ImageStream, number: int, **options: Any) -> dict[int, bytes]:
    """Sample → its features, as bytes, in pass `number` of the stream. options: those of the stream's rows."""
    told = stored.rows(**options).samples(number)
    pairs = zip(told, stream.batches(number), strict=True)
    return {int(at): row.tobytes() for (_, places), (rows, _) in pairs for at, row in zip(places, rows, strict=True)}


# Without augmentation


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 5, "steps": 3},
        {"seed": None},
        {"with_replacement": True},
        {"batch_size": 1000},
        {"batch_size": 9},  # more than a batch of the engine
    ],
    ids=str,
)
def test_without_augmentation_it_gives_the_stored_features_of_the_same_samples_in_the_same_order(stored, options):
    rows, images = stored.rows(**options), stored.stream(**options)
    assert images.steps == rows.steps
    for epoch in (0, 2):
        assert same(list(images.batches(epoch, epochs=2)), list(rows.batches(epoch, epochs=2)))
        assert same(list(images.batches(epoch, 1)), list(rows.batches(epoch, 1)))


def test_without_an_end_it_goes_on_as_the_stream_of_features_does(stored):
    found = stored.stream(steps=2).batches(1, 1, epochs=None)
    expected = stored.rows(steps=2).batches(1, 1, epochs=None)
    assert same([next(found) for _ in range(11)], [next(expected) for _ in range(11)])


# With augmentation


def test_features_are_those_of_the_picture_as_it_is_drawn_for_the_pass(stored, quick):
    for number in (0, 3):
        told = stored.rows().samples(number)
        for (passed, places), (features, labels) in zip(told, stored.stream(TURN).batches(number), strict=True):
            assert passed == number
            for place, row, label in zip(places.tolist(), features, labels, strict=True):
                digest = stored.files["digest"][place].as_py()
                image = np.array([int.from_bytes(digest[:8], "little")], np.uint64)
                pixels = decode(stored.path(place).read_bytes(), 32)[None]
                drawn = TURN.draw(epoch_keys(3, number, image), 32)
                expected = toy.ToyEngine().features(toy.augmented(pixels, drawn, TURN))[0].astype(np.float16)
                assert np.array_equal(row, expected)
                assert label == stored.table.samples["class"][place]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_with_keras_too(stored):
    """The augmentation is only a flip, so both possible results are known."""
    prepare_tensorflow(1)
    flip = Augmentation(horizontal_flip=True)
    seen = set()
    for number in (0, 1):
        told = stored.rows(batch_size=100).samples(number)
        ((_, places),), ((features, _),) = told, stored.stream(flip, batch_size=100).batches(number)
        for place, row in zip(places.tolist(), features, strict=True):
            pixels = decode(stored.path(place).read_bytes(), 32)[None]
            either = toy.ToyEngine().features(np.concatenate([pixels, pixels[:, :, ::-1]])).astype(np.float16)
            matches = [np.array_equal(row, one) for one in either]
            assert sum(matches) == 1
            seen.add((number, matches[1]))
    assert len(seen) == 4


def test_another_pass_or_seed_draws_anew_and_the_same_pass_the_same(stored, quick):
    def drawn(number: int, seed: int = 3) -> list[bytes]:
        """The features of each sample in pass `number`, in table order."""
        found = by_sample(stored, stored.stream(TURN, seed=seed), number, seed=seed)
        return [found[place] for place in range(len(stored.table))]

    assert drawn(0) == drawn(0)
    others = [drawn(1), drawn(2), drawn(0, seed=4)]
    for other in others:
        changed = sum(a != b for a, b in zip(drawn(0), other, strict=True))
        assert changed > 0.9 * len(stored.table)  # the toy makes 255 different augmentations of an image


def test_files_of_equal_bytes_are_drawn_alike(stored, quick):
    digests = stored.files["digest"].to_pylist()
    twins = [place for place, digest in enumerate(digests) if digests.count(digest) > 1]
    found = by_sample(stored, stored.stream(TURN), 1)
    assert len({found[place] for place in twins}) < len(twins)
    assert all((found[a] == found[b]) == (digests[a] == digests[b]) for a in twins for b in twins)


def test_what_is_drawn_does_not_depend_on_the_size_of_a_batch(stored, quick):
    found = [by_sample(stored, stored.stream(TURN, batch_size=size), 5, batch_size=size) for size in (1, 4, 9, 100)]
    assert found[0].keys() == set(range(len(stored.table)))
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize("steps", [None, 3])
def test_resumed_at_any_step_it_gives_the_batches_it_would_have_given(stored, quick, steps):
    stream = stored.stream(TURN, steps=steps)
    whole = list(stream.batches(1, epochs=3))
    for step in range(len(whole)):
        assert same(list(stored.stream(TURN, steps=steps).batches(1, step, epochs=3)), whole[step:])
    later = list(stream.batches(2, epochs=2))
    assert same(later, whole[stream.steps :])


def test_an_epoch_that_crosses_passes_draws_for_each_pass(stored, quick):
    """A sample that comes twice in an epoch is therefore augmented differently each time."""
    one_pass = stored.stream(TURN)
    crossing = stored.stream(TURN, steps=one_pass.steps + 2)
    assert same(list(crossing.batches(0)), [*one_pass.batches(0), *list(one_pass.batches(1))[:2]])


def test_drawn_with_replacement_a_picture_is_the_same_each_time_in_a_pass(stored, quick):
    options = {"with_replacement": True, "batch_size": 100}
    ((_, places),) = stored.rows(**options).samples(0)
    ((features, labels),) = stored.stream(TURN, **options).batches(0)
    assert len(features) == len(labels) == len(places) > len(set(places.tolist()))
    assert labels.tolist() == stored.table.samples["class"][places].tolist()
    rows: dict[int, set[bytes]] = {}
    for place, row in zip(places.tolist(), features, strict=True):
        rows.setdefault(place, set()).add(row.tobytes())
    assert all(len(found) == 1 for found in rows.values())


# Images that are gone or have changed


@pytest.mark.parametrize("how", ["vanished", "changed", "broken"])
@pytest.mark.parametrize("batch_size", [4, 100])
def test_a_picture_that_cannot_be_used_is_missing_from_its_batch_and_told_of_once(stored, caplog, how, batch_size):
    digests = stored.files["digest"].to_pylist()
    place = next(place for place, digest in enumerate(digests) if digests.count(digest) == 1)
    name = stored.path(place).relative_to(stored.images).as_posix()
    stored.spoil(place, how)
    stream, rows = stored.stream(batch_size=batch_size), stored.rows(batch_size=batch_size)
    for epoch in (0, 1, 2):
        told, stored_batches = rows.samples(epoch), rows.batches(epoch)
        for (_, places), expected, found in zip(told, stored_batches, stream.batches(epoch), strict=True):
            is_left = places != place
            assert same([found], [(expected[0][is_left], expected[1][is_left])])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{name} is left out (")
    if how != "broken":
        assert how in line


@pytest.mark.parametrize("how", ["vanished", "changed"])
@pytest.mark.parametrize("batch_size", [4, 100])
def test_where_one_of_several_files_of_equal_bytes_is_gone_the_others_keep_their_features_and_labels(
    stored, caplog, how, batch_size
):
    digests = stored.files["digest"].to_pylist()
    gone, *others = [place for place, digest in enumerate(digests) if digests.count(digest) > 1]
    assert others
    stored.spoil(gone, how)
    stream, rows = stored.stream(batch_size=batch_size), stored.rows(batch_size=batch_size)
    for epoch in range(4):
        told = zip(rows.samples(epoch), rows.batches(epoch), strict=True)
        for ((_, places), expected), found in zip(told, stream.batches(epoch), strict=True):
            is_left = places != gone
            assert same([found], [(expected[0][is_left], expected[1][is_left])])
    assert len(caplog.records) == 1


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_pictures_of_which_none_can_be_read_say_so(stored, batch_size):
    shutil.rmtree(stored.images)
    expected = (
        rf"{len(stored.table)} images in succession could not be read \(vanished: .*\); check that the image folder"
    )
    stream = stored.stream(batch_size=batch_size)
    for batches in (stream.batches(0), stream.numbered()):
        with pytest.raises(InputError, match=expected):
            list(batches)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """About sixty training images. Each test chooses which of them are gone."""
    root = tmp_path_factory.mktemp("lasting")
    return Stored(toy.pictures(root / "images", per_class=45), root / "store")


@st.composite
def losses(draw: st.DrawFn) -> tuple[set[int], dict[str, Any], int]:
    """Draw (samples that are gone, stream options, first step). Gaps lie alone, in succession, or at either end."""
    some, ends = draw(st.sets(st.integers(0, 200), max_size=8)), draw(st.sets(st.sampled_from([0, -1])))
    start, length = draw(st.integers(0, 200)), draw(st.sampled_from([0, 1, 2, 5, MOST_GONE - 11]))
    options = {
        "batch_size": draw(st.sampled_from([1, 2, 3, 8, 31, 1000])),
        "seed": draw(st.sampled_from([None, 0, 7])),
        "steps": draw(st.sampled_from([None, 1, 5])),
    }
    options["with_replacement"] = options["seed"] is not None and draw(st.booleans())
    return some | set(range(start, start + length)) | ends, options, draw(st.integers(0, 100))


@settings(max_examples=examples(20))
@given(losses())
def test_pictures_that_are_gone_cost_their_rows_and_no_other_whichever_they_are(lasting, case):
    places, options, first_step = case
    gone = sorted({place % len(lasting.table) for place in places})
    lost = {lasting.files["path"][place].as_py() for place in gone}

    def read(root: Path, path: bytes, digest: bytes) -> bytes:
        if path in lost:
            raise ImageError("vanished", "it is gone")
        return read_image(root, path, digest)

    rows = lasting.rows(**options)
    first_step %= rows.steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.jobs.image_stream.read_image", read)
        found = list(lasting.stream(**options).numbered())
        batches = list(lasting.stream(**options).batches(0, epochs=2))
        later = list(lasting.stream(**options).batches(0, first_step, epochs=2))
    left = []
    epochs = 2 + 100 // rows.steps
    for (_, samples), batch in zip(rows.samples(0, epochs=epochs), rows.batches(0, epochs=epochs), strict=True):
        is_there = ~np.isin(samples, gone)
        left.append((samples[is_there], *(array[is_there] for array in batch)))
    assert same(found, left[: rows.steps])
    for step, batch in enumerate(batches):
        assert same([batch], [next(own for _, *own in left[step:] if len(own[1]))])
    assert len(batches) == 2 * rows.steps
    assert same(later, batches[first_step:])


def test_a_folder_that_goes_meanwhile_ends_the_stream(stored):
    batches = stored.stream().batches(0, epochs=None)
    next(batches)
    shutil.rmtree(stored.images)
    with pytest.raises(InputError, match=r"\d+ images in succession could not be read"):
        list(islice(batches, 100))


# The engine's batches


@pytest.mark.parametrize("batch_size", [1, 3, 8, 13])
def test_the_engine_gets_whole_batches_whatever_the_size_of_a_step(stored, monkeypatch, batch_size):
    sizes, features = [], toy.ToyEngine.features

    def counted(engine, pixels):
        sizes.append(len(pixels))
        return features(engine, pixels)

    monkeypatch.setattr(toy.ToyEngine, "features", counted)
    batches = list(stored.stream(batch_size=batch_size, steps=40 // batch_size).batches(epochs=2))
    *whole, _ = sizes
    assert set(whole) == {toy.ToyEngine.batch_size}
    assert sum(sizes) == sum(len(features) for features, _ in batches)


def test_a_stream_that_is_left_reads_no_further(stored, monkeypatch):
    """No more than the engine's next batch is read ahead, and a stream that is closed leaves no thread behind."""
    read = []
    monkeypatch.setattr(
        "workers.jobs.image_stream.read_image", lambda *given: (read.append(given), read_image(*given))[1]
    )
    batches = stored.stream(batch_size=1).batches(0, epochs=None)
    next(batches)
    batches.close()
    assert 1 <= len(read) <= 2 * toy.ToyEngine.batch_size
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize("copies", [2, 3])
def test_several_engines_give_the_batches_of_one(stored, quick, copies):
    class Copy(toy.ToyEngine):
        batch_size = 3

    engine = ParallelEngine([Copy() for _ in range(copies)])
    for options in ({}, {"batch_size": 1}, {"batch_size": 100}, {"steps": 5}):
        stream = ImageStream(stored.rows(**options), stored.files, stored.images, engine, TURN)
        assert same(list(stream.batches(1, 2, epochs=3)), list(stored.stream(TURN, **options).batches(1, 2, epochs=3)))
        assert same(list(stream.numbered()), list(stored.stream(TURN, **options).numbered()))


def test_an_error_of_one_of_several_engines_ends_the_stream_as_itself(stored):
    class Broken(toy.ToyEngine):
        def features(self, pixels):
            raise MemoryError("no room for the batch")

    engine = ParallelEngine([toy.ToyEngine(), Broken()])
    stream = ImageStream(stored.rows(), stored.files, stored.images, engine, None)
    with pytest.raises(MemoryError, match="no room for the batch"):
        list(stream.batches(epochs=3))
    with pytest.raises(MemoryError):  # and no copy is lost or waited for
        list(stream.batches(epochs=3))
