import numpy as np
import pytest

from tests.toy import ToyEngine, picture
from vision.engines.extract import extract
from vision.pixels.decode import ImageError, decode


@pytest.fixture
def images(tmp_path):
    """Twenty keys and their readers: two batches of the toy engine and a half."""
    paths = [picture(tmp_path / f"{number}.png", number) for number in range(20)]
    return [(bytes([99 - number]), path.read_bytes, [0]) for number, path in enumerate(paths)]


def raising(error: Exception):
    def read() -> bytes:
        raise error

    return read


def test_features_come_in_the_order_and_dtype_asked_for(images):
    found = extract(ToyEngine(), iter(images))
    assert found.keys == [key for key, *_ in images]
    assert found.features.dtype == np.float16
    for (_, read, _), row in zip(images, found.features, strict=True):
        alone = ToyEngine().features(decode(read(), 32)[None])[0]
        assert np.array_equal(row, alone.astype(np.float16))


@pytest.mark.parametrize("bad", [0, 7, 8, 19])
def test_a_bad_image_costs_its_own_row_only(images, bad):
    whole = extract(ToyEngine(), images)
    key = images[bad][0]
    images[bad] = (key, lambda: b"no image", [0])
    found = extract(ToyEngine(), images)
    assert list(found.errors) == [key]
    assert found.errors[key][0] == "not_image"
    assert found.keys == whole.keys[:bad] + whole.keys[bad + 1 :]
    assert np.array_equal(found.features, np.delete(whole.features, bad, axis=0))


def test_what_a_reader_says_of_a_file_is_kept_with_its_code(images):
    key = images[3][0]
    images[3] = (key, raising(ImageError("vanished", "gone a moment ago")), [0])
    found = extract(ToyEngine(), images)
    assert found.errors == {key: ("vanished", "gone a moment ago")}
    assert len(found.keys) == len(found.features) == 19


@pytest.mark.parametrize("at", [0, 9, 19])
def test_an_error_that_is_not_the_images_passes_through(images, at):
    images[at] = (images[at][0], raising(OSError(5, "Input/output error")), [0])
    with pytest.raises(OSError, match="Input/output error"):
        extract(ToyEngine(), images)


def test_on_batch_is_told_of_every_image_good_or_bad_as_it_goes(images):
    images[2] = (images[2][0], lambda: b"no image", [0])
    heard = []
    extract(ToyEngine(), images, heard.append)
    assert heard == [8, 16, 20]


def test_nothing_in_gives_nothing_out():
    heard = []
    found = extract(ToyEngine(), [], heard.append)
    assert (found.keys, found.errors, heard) == ([], {}, [])
    assert found.features.shape == (0, 1, 1, 512)
    assert found.features.dtype == np.float16


def test_nothing_but_bad_images_gives_no_rows(images):
    found = extract(ToyEngine(), [(key, lambda: b"", [0]) for key, *_ in images])
    assert found.features.shape == (0, 1, 1, 512)
    assert set(found.errors) == {key for key, *_ in images}


def test_no_file_is_read_before_the_batch_before_its_own_is_being_inferred(images):
    """Decoding runs one batch ahead, so memory holds two batches however many images there are."""
    read, seen = [], []

    class Watching(ToyEngine):
        def features(self, pixels):
            seen.append(len(read))
            return super().features(pixels)

    def reading(key, reader, views):
        return key, lambda: read.append(key) or reader(), views

    extract(Watching(), [reading(*image) for image in images])
    assert len(seen) == 3
    assert all(count <= 8 * (batch + 2) for batch, count in enumerate(seen))


def test_images_that_are_to_be_apart_are_inferred_each_without_others(images):
    seen = []

    class Watching(ToyEngine):
        def features(self, pixels):
            seen.append(len(pixels))
            return super().features(pixels)

    found = extract(Watching(), images, apart={images[0][0], images[9][0]})
    assert sorted(seen) == [1, 1, 2, 8, 8]
    whole = extract(ToyEngine(), images)
    expected = dict(zip(whole.keys, whole.features, strict=True))
    assert sorted(found.keys) == sorted(expected)
    assert all(np.array_equal(row, expected[key]) for key, row in zip(found.keys, found.features, strict=True))


def test_rows_are_in_the_order_of_the_images_whichever_are_apart(images):
    whole, keys = extract(ToyEngine(), images), [key for key, _, _ in images]
    for apart in ({keys[-1]}, {keys[2], keys[9]}, set(keys)):
        found = extract(ToyEngine(), images, apart=apart)
        assert found.keys == whole.keys
        assert np.array_equal(found.features, whole.features)


def test_a_value_too_large_for_float16_is_left_for_the_store_to_refuse(images):
    class Large(ToyEngine):
        def features(self, pixels):
            return super().features(pixels) + np.float32(1e6)

    assert np.isinf(extract(Large(), images[:1]).features).all()


def test_seconds_are_kept_for_each_stage(images):
    seconds = extract(ToyEngine(), images).seconds
    assert min(seconds.read, seconds.decode, seconds.infer) > 0


# Views


def shifted(pixels, key, numbers):
    """Views without Keras: view k is k grey levels lighter."""
    return np.stack([pixels + np.uint8(number) for number in numbers])


def test_plain_rows_come_first_then_each_view_in_the_order_of_the_images(images):
    wanted = [(key, read, [0, 1, 2] if number % 2 else [0, 2]) for number, (key, read, _) in enumerate(images)]
    found = extract(ToyEngine(), wanted, make_views=shifted)
    expected = [(view, key) for view in range(3) for key, _, views in wanted if view in views]
    assert list(zip(found.views.tolist(), found.keys, strict=True)) == expected
    assert found.views.dtype == np.uint16
    readers = {key: read for key, read, _ in images}
    for key, view, row in zip(found.keys, found.views.tolist(), found.features, strict=True):
        pixels = shifted(decode(readers[key](), 32), key, [view])
        assert np.array_equal(row, ToyEngine().features(pixels)[0].astype(np.float16))


@pytest.mark.parametrize("count", [1, 3, 4, 8, 9, 20])
def test_an_image_is_read_once_and_batches_are_full_of_rows(count, images):
    read, seen, heard = [], [], []

    class Watching(ToyEngine):
        def features(self, pixels):
            seen.append(len(pixels))
            return super().features(pixels)

    wanted = [
        (key, lambda key=key, reader=reader: read.append(key) or reader(), range(count)) for key, reader, _ in images
    ]
    extract(Watching(), wanted, heard.append, make_views=shifted)
    assert read == [key for key, *_ in images]
    assert sum(seen) == 20 * count
    assert all(rows == 8 for rows in seen[:-1])
    assert heard == sorted(heard)
    assert heard[-1] == 20


def test_a_bad_image_costs_its_views_and_is_one_error(images):
    images[4] = (images[4][0], lambda: b"no image", [0])
    wanted = [(key, read, [0, 1, 2]) for key, read, _ in images]
    heard = []
    found = extract(ToyEngine(), wanted, heard.append, make_views=shifted)
    assert list(found.errors) == [images[4][0]]
    assert images[4][0] not in found.keys
    assert (len(found.keys), heard[-1]) == (57, 20)


def test_an_image_that_is_to_be_apart_is_inferred_with_its_own_views_alone(images):
    seen = []

    class Watching(ToyEngine):
        def features(self, pixels):
            seen.append(len(pixels))
            return super().features(pixels)

    wanted = [(key, read, [0, 1, 2]) for key, read, _ in images]
    found = extract(Watching(), wanted, apart={images[1][0]}, make_views=shifted)
    assert sorted(seen) == [1, 3, *[8] * 7]
    whole = extract(ToyEngine(), wanted, make_views=shifted)
    pairs = [dict(zip(zip(f.keys, f.views.tolist(), strict=True), f.features, strict=True)) for f in (found, whole)]
    assert pairs[0].keys() == pairs[1].keys()
    assert all(np.array_equal(pairs[0][pair], pairs[1][pair]) for pair in pairs[0])
