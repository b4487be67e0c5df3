"""Augmentation against Keras' ImageDataGenerator: what is drawn, what becomes of pixels; and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vision.engines.test_tensorflow_engine import pixels
from vision.errors import SpecError
from vision.pixels.augment import augmented
from vision.pixels.augmentation import Augmentation, split_rescale, variant_keys
from vision.pixels.draws import Draws, affine

pytestmark = [
    # Keras 3.15 calls SciPy's affine_transform by its old address.
    pytest.mark.filterwarnings("ignore:.*scipy.ndimage.interpolation.*:DeprecationWarning"),
]

SIZE = 31
EVERYTHING = {
    "shear_range": 12.0,
    "zoom_range": 0.3,
    "rotation_range": 25.0,
    "width_shift_range": 0.2,
    "height_shift_range": 3,
    "horizontal_flip": True,
    "vertical_flip": True,
    "brightness_range": (0.5, 1.4),
    "fill_mode": "reflect",
    "cval": 7.0,
}
SEVERAL = Augmentation(
    rotation_range=20,
    zoom_range=(0.8, 1.2),
    width_shift_range=0.1,
    horizontal_flip=True,
    brightness_range=(0.5, 1.5),
)
COMBINATIONS = {
    "shear": {"shear_range": 20},
    "a fifth of a degree of shear": {"shear_range": 0.2},
    "zoom": {"zoom_range": 0.3},
    "zoom between two ends": {"zoom_range": [0.5, 1.1]},
    "rotation": {"rotation_range": 40},
    "width shift, a part": {"width_shift_range": 0.2},
    "width shift, pixels": {"width_shift_range": 2.5},
    "width shift, an int": {"width_shift_range": 4},
    "width shift, a list": {"width_shift_range": [1, 2.5, -6]},
    "width shift, a list of parts": {"width_shift_range": [0.1, 0.25]},
    "height shift, a part": {"height_shift_range": 0.2},
    "height shift, pixels": {"height_shift_range": 1.0},
    "height shift, an int": {"height_shift_range": 2},
    "height shift, a list": {"height_shift_range": [3]},
    "horizontal flip": {"horizontal_flip": True},
    "vertical flip": {"vertical_flip": True},
    "everything": EVERYTHING,
}


@pytest.fixture(scope="module")
def generator(engine):
    """Keras' own class. `engine` comes before whatever imports Keras."""
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    return ImageDataGenerator


def keys(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def of_transforms(size: int, transforms: list[dict], vertical: str, horizontal: str) -> np.ndarray:
    """Our matrices of ImageDataGenerator's transforms, of which `vertical` and `horizontal` are the shifts."""
    names = {
        "rotation": "theta",
        "y_shift": vertical,
        "x_shift": horizontal,
        "shear": "shear",
        "x_zoom": "zx",
        "y_zoom": "zy",
        "mirror": "flip_horizontal",
        "turn_over": "flip_vertical",
    }
    return affine(size, **{ours: np.array([one[theirs] for one in transforms]) for ours, theirs in names.items()})


def displacements(matrices: np.ndarray, size: int) -> np.ndarray:
    """(points and axes, n): how far the corners, the centre and a place beside it are moved, without what rounding leaves.

    Along x, along y, and along both, which tells how the two go together.
    """
    last = size - 1
    places = np.array([(0, 0, 1), (last, 0, 1), (0, last, 1), (last, last, 1), (last / 2, last / 2, 1), (9, 4, 1)])
    moved = np.einsum("nij,pj->npi", matrices, places)[..., :2] - places[:, :2]
    moved = np.concatenate([moved, moved.sum(axis=-1, keepdims=True)], axis=-1)
    return np.round(moved.reshape(len(matrices), -1).T, 9)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_pictures_are_moved_as_often_and_as_far_as_by_image_data_generator(generator, name):
    from scipy.stats import ks_2samp

    count, options = 3000, COMBINATIONS[name]
    theirs = generator(**options)
    np.random.seed(0)  # ImageDataGenerator draws from nothing else
    transforms = [theirs.get_random_transform((SIZE, SIZE, 3)) for _ in range(count)]
    expected = displacements(of_transforms(SIZE, transforms, vertical="tx", horizontal="ty"), SIZE)
    found = displacements(Augmentation.of(options).draw(keys(count), SIZE).matrices, SIZE)
    assert np.ptp(found, axis=1).max() > 0.05
    for ours, keras_own in zip(found, expected, strict=True):
        spread = np.ptp(keras_own)
        tails = 0.2 if name == "everything" else 0.05  # of many things at once the extremes are rare
        assert abs(ours.min() - keras_own.min()) <= tails * spread
        assert abs(ours.max() - keras_own.max()) <= tails * spread
        for power in (1, 2):  # five standard errors of the difference of two means
            one, other = ours**power, keras_own**power
            assert abs(one.mean() - other.mean()) <= 5 * np.sqrt((one.var() + other.var()) / count)
        assert (
            ks_2samp(ours, keras_own, method="asymp").pvalue > 1e-4
        )  # some 300 comparisons, of which none is to fail by chance


def test_brightness_is_spread_as_by_image_data_generator(generator):
    from scipy.stats import ks_2samp

    theirs = generator(brightness_range=(0.3, 1.8))
    np.random.seed(0)
    expected = [theirs.get_random_transform((SIZE, SIZE, 3))["brightness"] for _ in range(3000)]
    found = Augmentation(brightness_range=(0.3, 1.8)).draw(keys(3000), SIZE).brightness
    assert np.all((found >= 0.3) & (found < 1.8))
    assert ks_2samp(found, expected, method="asymp").pvalue > 1e-4


def transform(draw: np.random.Generator) -> dict:
    """As get_random_transform gives them, without brightness."""
    low, high = [-60, -8, -8, -30, 0.6, 0.6], [60, 8, 8, 30, 1.5, 1.5]
    moved = dict(zip(("theta", "tx", "ty", "shear", "zx", "zy"), draw.uniform(low, high), strict=True))
    return moved | {"flip_horizontal": draw.random() < 0.5, "flip_vertical": draw.random() < 0.5}


def beyond(matrices: np.ndarray, size: int) -> np.ndarray:
    """(n, size, size): how many pixels outside of the picture a pixel of the outcome comes from; negative inside."""
    y, x = np.mgrid[:size, :size]
    places = np.einsum("nij,yxj->nyxi", matrices, np.stack([x, y, np.ones_like(x)], axis=-1))[..., :2]
    return np.maximum(-places, places - (size - 1)).max(axis=-1)


@pytest.mark.parametrize("size", [31, 32])
@pytest.mark.parametrize("fill_mode", ["nearest", "reflect", "constant", "wrap"])
def test_pixels_are_those_of_image_data_generator_with_the_same_transform(generator, fill_mode, size):
    draw = np.random.default_rng(1)
    transforms, batch = [transform(draw) for _ in range(20)], pixels(20, size)
    # It moves a picture along its rows by tx, whatever it calls it.
    matrices = of_transforms(size, transforms, vertical="ty", horizontal="tx")
    theirs = generator(fill_mode=fill_mode, cval=77)
    pairs = zip(batch.astype(np.float32), transforms, strict=True)
    expected = np.stack([theirs.apply_transform(picture, one) for picture, one in pairs])
    found = augmented(batch, Draws(matrices, np.ones(20)), Augmentation(fill_mode=fill_mode, cval=77))
    outside = beyond(matrices, size)
    assert 0.1 < (outside > 0).mean() < 0.5
    comparable = {
        "constant": (outside < -1e-3) | (outside > 1),  # in between TensorFlow fades into the fill value
        "wrap": outside < -1e-3,  # SciPy takes the last row for the first
    }.get(fill_mode, np.ones(outside.shape, bool))
    assert np.abs(found - expected)[comparable].max() < 0.51  # half for the rounding, the rest for float32 places


def test_what_lies_beyond_the_edges_with_wrap_is_the_other_side_of_the_picture(engine):
    batch = pixels(1, SIZE)
    for shift in (1, 5, -3):
        draws = Draws(affine(SIZE, x_shift=np.array([shift])), np.ones(1))
        assert np.array_equal(augmented(batch, draws, Augmentation(fill_mode="wrap")), np.roll(batch, -shift, axis=2))


def test_brightness_is_that_of_image_data_generator_to_one_of_256(generator):
    factors = np.array([0.0, 0.2, 0.9, 1.0, 1.3, 3.0])
    batch, matrices = pixels(6, SIZE), np.tile(np.eye(3), (6, 1, 1))
    found = augmented(batch, Draws(matrices, factors), Augmentation())
    for picture, factor, ours in zip(batch, factors, found, strict=True):
        expected = generator().apply_transform(picture.astype(np.float32), {"brightness": factor})
        assert np.abs(ours - expected).max() <= 1


def only_pixel_at(places: np.ndarray) -> list[int]:
    return np.argwhere(places[..., 0] > 0)[:, :2].tolist()


def test_a_width_shift_goes_along_the_rows_as_documented_where_keras_own_goes_along_the_columns(generator):
    picture = np.zeros((9, 9, 3), np.uint8)
    picture[4, 4] = 255
    options = {"width_shift_range": [2], "fill_mode": "constant"}
    draws = Augmentation.of(options).draw(keys(20), 9)
    places = [only_pixel_at(one) for one in augmented(np.stack([picture] * 20), draws, Augmentation.of(options))]
    assert {tuple(place) for found in places for place in found} == {(4, 2), (4, 6)}
    theirs = generator(**options)
    moved = theirs.apply_transform(picture.astype(np.float32), theirs.get_random_transform(picture.shape, seed=0))
    assert only_pixel_at(moved) in ([[2, 4]], [[6, 4]])


@pytest.mark.parametrize("size", [2, SIZE, 224])
def test_a_flip_turns_pixels_round_and_changes_none(engine, size):
    batch = pixels(4, size)
    mirror, turn_over = np.array([False, True, False, True]), np.array([False, False, True, True])
    draws = Draws(affine(size, mirror=mirror, turn_over=turn_over), np.ones(4))
    expected = [batch[0], batch[1, :, ::-1], batch[2, ::-1], batch[3, ::-1, ::-1]]
    assert np.array_equal(augmented(batch, draws, Augmentation()), np.stack(expected))


@pytest.mark.parametrize("fill_mode", ["nearest", "reflect", "constant", "wrap"])
@pytest.mark.parametrize("size", [SIZE, 32, 224])
def test_a_plain_augmentation_gives_every_pixel_back(engine, fill_mode, size):
    plain = Augmentation(fill_mode=fill_mode, cval=200)
    assert plain.is_plain
    assert np.array_equal(augmented(pixels(3, size), plain.draw(keys(3), size), plain), pixels(3, size))


def test_a_picture_does_not_depend_on_its_batch_nor_on_its_place_in_it(engine):
    augmentation, batch = Augmentation.of(EVERYTHING), pixels(7, SIZE)
    draws = augmentation.draw(keys(7), SIZE)
    whole = augmented(batch, draws, augmentation)
    assert (whole.shape, whole.dtype) == (batch.shape, np.uint8)
    for place in range(7):
        one = slice(place, place + 1)
        own = augmentation.draw(keys(7)[one], SIZE)
        assert np.array_equal(augmented(batch[one], own, augmentation), whole[one])
    backwards = Draws(draws.matrices[::-1], draws.brightness[::-1])
    assert np.array_equal(augmented(batch[::-1], backwards, augmentation), whole[::-1])


def test_no_pictures_are_augmented_to_none(engine):
    augmentation = Augmentation.of(EVERYTHING)
    found = augmented(pixels(0, SIZE), augmentation.draw(keys(0), SIZE), augmentation)
    assert (found.shape, found.dtype) == ((0, SIZE, SIZE, 3), np.uint8)


def test_a_variant_of_an_image_is_the_same_for_ever():
    found = variant_keys(SEVERAL.digest, bytes(range(32)), [1, 2])
    assert found.tolist() == [7138404099322198751, 13790441055371113721]
    draws = SEVERAL.draw(found, 32)
    expected = [
        [[-0.9251882727271715, -0.027211895289760948, 29.068664641259375]],
        [[0.8974113060362666, -0.03878349663890568, 3.6170665798449946]],
    ]
    expected[0] += [[-0.023885843669010153, 1.0540187212826175, -0.4978735054756346], [0, 0, 1]]
    expected[1] += [[0.031446404566715415, 1.106795795924242, -2.092792391437687], [0, 0, 1]]
    assert np.allclose(draws.matrices, expected, rtol=0, atol=1e-12)  # a cosine's last digit is the platform's
    assert draws.brightness.tolist() == [1.0685120927688798, 1.4289197452051714]


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5), st.sampled_from(sorted(COMBINATIONS)))
def test_a_key_draws_the_same_alone_and_among_others(numbers, name):
    augmentation = Augmentation.of(COMBINATIONS[name])
    together = augmentation.draw(np.array(numbers, np.uint64), SIZE)
    alone = [augmentation.draw(np.array([number], np.uint64), SIZE) for number in numbers]
    assert np.array_equal(together.matrices, np.concatenate([draws.matrices for draws in alone]))
    assert np.array_equal(together.brightness, np.concatenate([draws.brightness for draws in alone]))


def test_what_a_parameter_draws_does_not_depend_on_the_others():
    def drawn(*names: str) -> Draws:
        return Augmentation.of({name: EVERYTHING[name] for name in names}).draw(keys(50), SIZE)

    assert np.array_equal(drawn(*EVERYTHING).brightness, drawn("brightness_range").brightness)
    turned, both = drawn("rotation_range").matrices, drawn("rotation_range", "zoom_range").matrices
    product = turned @ drawn("zoom_range").matrices  # both are about the centre
    assert np.allclose(both, product, rtol=0, atol=1e-12)
    moved = drawn("width_shift_range", "height_shift_range").matrices
    assert np.array_equal(moved[:, 0], drawn("width_shift_range").matrices[:, 0])
    assert np.array_equal(moved[:, 1], drawn("height_shift_range").matrices[:, 1])


def test_variants_differ_by_image_number_and_augmentation():
    one, other = bytes(32), bytes([1]) * 32
    found = np.concatenate([variant_keys(text, image, range(1, 256)) for text in ("a", "b") for image in (one, other)])
    assert len(set(found.tolist())) == 4 * 255
    assert np.array_equal(variant_keys("a", one, [7, 3]), variant_keys("a", one, range(256))[[7, 3]])


def test_every_parameter_is_in_everything_and_changes_the_digest():
    assert set(EVERYTHING) == {field.name for field in dataclasses.fields(Augmentation)}
    digests = {Augmentation.of({name: value}).digest for name, value in EVERYTHING.items()}
    assert len(digests | {Augmentation().digest}) == len(EVERYTHING) + 1


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_record_comes_back_from_json_as_the_same_augmentation(name):
    augmentation = Augmentation.of(COMBINATIONS[name])
    back = Augmentation.of(json.loads(augmentation.text))
    assert (back, back.digest, hash(back)) == (augmentation, augmentation.digest, hash(augmentation))
    assert not augmentation.is_plain


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"rotation_range": 20}, {"rotation_range": 20.0}),
        ({"zoom_range": [1.2, 1]}, {"zoom_range": (1.0, 1.2)}),
        ({"brightness_range": [1, 2]}, {"brightness_range": (1.0, 2.0), "cval": -0.0}),
        ({"width_shift_range": [1, 2]}, {"width_shift_range": (1.0, 2.0), "shear_range": 0}),
        ({"height_shift_range": np.int64(3)}, {"height_shift_range": 3, "brightness_range": None}),
        ({"height_shift_range": 1, "width_shift_range": [0]}, {"zoom_range": [1, 1], "brightness_range": [1, 1]}),
    ],
)
def test_what_means_the_same_has_the_same_digest(one, other):
    assert Augmentation.of(one).digest == Augmentation.of(other).digest


def test_whole_pixels_are_not_any_pixels():
    whole, any_pixels = Augmentation(width_shift_range=3), Augmentation(width_shift_range=3.0)
    assert whole != any_pixels
    assert whole.digest != any_pixels.digest
    assert set(whole.draw(keys(200), SIZE).matrices[:, 0, 2]) == {-2, -1, 0, 1, 2}
    assert len(set(any_pixels.draw(keys(200), SIZE).matrices[:, 0, 2])) == 200


def test_the_text_and_the_digest_of_an_augmentation_are_the_same_for_ever():
    assert SEVERAL.text == (
        '{"brightness_range":[0.5,1.5],"horizontal_flip":true,"rotation_range":20.0,"width_shift_range":0.1,'
        '"zoom_range":[0.8,1.2]}'
    )
    assert SEVERAL.digest == "b52afa249414d7d49ffc400a723a4e49"
    assert Augmentation().text == "{}"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"zoom": 0.2}, "unknown parameter 'zoom'; expected one of zoom_range$"),
        (
            {"shift_range": 0.2},
            "unknown parameter 'shift_range'; expected one of width_shift_range, height_shift_range$",
        ),
        ({"horizontal_flips": True}, "unknown parameter 'horizontal_flips'; expected one of horizontal_flip"),
        ({"xyz": 1}, "unknown parameter 'xyz'; expected one of shear_range, zoom_range, .*, cval$"),
        ({3: 1}, "unknown parameter 3"),
        (["zoom_range"], r"expected parameters with their values, .* got \['zoom_range'\]"),
        ({"rotation_range": "20"}, "rotation_range takes a finite number of at least 0, got '20'; write a number"),
        ({"rotation_range": True}, "rotation_range takes a finite number of at least 0, got True"),
        ({"rotation_range": -1}, "rotation_range takes a finite number of at least 0, got -1"),
        ({"rotation_range": float("nan")}, "rotation_range takes a finite number"),
        ({"shear_range": float("inf")}, "shear_range takes a finite number"),
        ({"width_shift_range": 10**12}, "width_shift_range takes a finite number from 0 to 65536, got 1000000000000"),
        ({"shear_range": 10**400}, "shear_range takes a finite number"),
        ({"shear_range": [1, 2]}, r"shear_range takes a finite number of at least 0, got \[1, 2\]"),
        ({"zoom_range": 1}, "zoom_range takes z below 1 [(]from 1 - z to 1 [+] z[)], or two numbers over 0; got 1"),
        ({"zoom_range": [0, 1]}, r"zoom_range takes z below 1 .* got \[0, 1\]"),
        ({"zoom_range": [0.5, 1, 2]}, "zoom_range takes two numbers"),
        ({"width_shift_range": []}, r"width_shift_range takes a finite number from 0 to 65536, got \[\]"),
        ({"height_shift_range": [1, None]}, "height_shift_range takes a finite number from -65536 to 65536, got None"),
        ({"height_shift_range": -0.1}, "height_shift_range takes a finite number from 0 to 65536, got -0.1"),
        ({"horizontal_flip": 1}, "horizontal_flip takes true or false, got 1"),
        ({"vertical_flip": "yes"}, "vertical_flip takes true or false, got 'yes'"),
        ({"brightness_range": 0.5}, "brightness_range takes two numbers, for example .* got 0.5"),
        ({"brightness_range": [-0.5, 1]}, "brightness_range takes a finite number of at least 0, got -0.5"),
        ({"fill_mode": "mirror"}, "fill_mode takes one of nearest, constant, reflect, wrap, got 'mirror'"),
        ({"fill_mode": ["wrap"]}, "fill_mode takes one of"),
        ({"cval": 256}, "cval takes a finite number from 0 to 255, got 256"),
        ({"rescale": 1 / 255}, "rescale is not supported: it is not random"),
        ({"channel_shift_range": 0.0}, "channel_shift_range is not supported: .* brightness_range"),
        ({"featurewise_center": True}, "featurewise_center is not supported: .*`standardize`"),
        ({"preprocessing_function": "f"}, "preprocessing_function is not supported: the frozen network has its own"),
        ({"validation_split": 0.2}, "validation_split is not supported: .* `validation_fraction`"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(record, words):
    with pytest.raises(SpecError, match=f"^`augment`: {words}"):
        Augmentation.of(record)


def test_every_parameter_of_image_data_generator_is_taken_or_refused_by_name(generator):
    from inspect import signature

    from vision.pixels.augmentation import REFUSED

    known = {field.name for field in dataclasses.fields(Augmentation)}
    assert set(signature(generator).parameters) == known | set(REFUSED)


def test_rescale_is_taken_out_of_what_is_augmented():
    assert split_rescale({"rescale": 1 / 255, "zoom_range": 0.2}) == (1 / 255, {"zoom_range": 0.2})
    assert split_rescale({}) == split_rescale({"rescale": None}) == (None, {})


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "1./255", True])
def test_a_rescale_that_leaves_nothing_is_refused(value):
    with pytest.raises(SpecError, match=r"`augment`: rescale takes a (finite )?number"):
        split_rescale({"rescale": value})
