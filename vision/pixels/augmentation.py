"""The parameters of an augmentation, checked, and the draw that belongs to a key. Neither pixels nor Keras."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from hashlib import sha256
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np

from vision.errors import SpecError
from vision.pixels.draws import Draws, affine, units

FillMode = Literal["nearest", "constant", "reflect", "wrap"]
Shift = float | int | tuple[float, ...]

LONGEST_SHIFT = 65_536  # pixels: more than the side of any picture

_STATISTICS = "it needs statistics of all images; the head standardises the features instead (`standardize`)"
_PREPROCESSING = "the frozen network has its own preprocessing"
_FIXED = "images are always float32 RGB, channels last, with bilinear interpolation"
# Parameters of ImageDataGenerator that are refused, and why.
REFUSED = {
    "rescale": "it is not random, but part of the feature space; split_rescale takes it out",
    "featurewise_center": _STATISTICS,
    "featurewise_std_normalization": _STATISTICS,
    "zca_whitening": _STATISTICS,
    "zca_epsilon": _STATISTICS,
    "samplewise_center": _PREPROCESSING,
    "samplewise_std_normalization": _PREPROCESSING,
    "preprocessing_function": _PREPROCESSING,
    "channel_shift_range": "it adds the same number to all channels; use brightness_range, which multiplies them",
    "data_format": _FIXED,
    "dtype": _FIXED,
    "interpolation_order": _FIXED,
    "validation_split": "folders, tables or `validation_fraction` decide the split",
}


@dataclass(frozen=True, eq=False)
class Augmentation:
    """The parameters of Keras' ImageDataGenerator for geometry and brightness, with its meanings and defaults.

    shear_range: horizontal, from -shear_range to shear_range degrees (0.2 is a fifth of a degree, hardly visible).
    zoom_range: z for factors from 1 - z to 1 + z, or both ends; drawn per axis. A factor over 1 shrinks the picture.
    rotation_range: from -rotation_range to rotation_range degrees. width_shift_range, height_shift_range: a float below 1 is
    a fraction of the side, any other float is pixels, both in either direction; an int n draws from 0 to n - 1 whole pixels,
    a tuple draws one of its numbers (fractions of the side if all are below 1), in a random direction. horizontal_flip,
    vertical_flip: with probability one half. brightness_range: both ends of the factor for the values. fill_mode: what
    fills the picture beyond its edges; cval (0 to 255) is the value for "constant".

    Equal meanings give equal objects: lists and tuples, ints and floats (except for shifts), either order of two ends, and
    None for a range without effect. Raises SpecError.
    """

    shear_range: float = 0.0
    zoom_range: float | tuple[float, float] = 0.0
    rotation_range: float = 0.0
    width_shift_range: Shift = 0.0
    height_shift_range: Shift = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    brightness_range: tuple[float, float] | None = None
    fill_mode: FillMode = "nearest"
    cval: float = 0.0

    def __post_init__(self):
        for field in fields(self):
            value = _CHECKS[field.name](field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)  # frozen for everyone else

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Augmentation) and self.text == other.text  # a shift of 3 is not one of 3.0

    def __hash__(self) -> int:
        return hash(self.text)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Augmentation":
        """From JSON, YAML or record(). Raises SpecError, which suggests similar names."""
        if not isinstance(record, Mapping):
            raise SpecError(
                f"`augment`: expected parameters with their values, for example rotation_range: 20; got {record!r}"
            )
        known = [field.name for field in fields(cls)]
        for name in record:
            if name in REFUSED:
                raise SpecError(f"`augment`: {name} is not supported: {REFUSED[name]}")
            if name not in known:
                near = [other for other in known if str(name) in other] or get_close_matches(
                    str(name), known, cutoff=0.4
                )
                raise SpecError(f"`augment`: unknown parameter {name!r}; expected one of {', '.join(near or known)}")
        return cls(**record)

    @classmethod
    def parse(cls, text: str) -> "Augmentation":
        """From its text. Raises SpecError, or ValueError if the text is not JSON."""
        return cls.of(json.loads(text))

    def record(self) -> dict[str, Any]:
        """The parameters that differ from their defaults, as JSON types."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {field.name for field in fields(self) if given[field.name] != field.default}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in given.items() if name in changed}

    @property
    def text(self) -> str:
        """record() as JSON. Its form never changes, because digests depend on it."""
        return json.dumps(self.record(), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """32 hex digits of the sha256 of `text`."""
        return sha256(self.text.encode()).hexdigest()[:32]

    @property
    def is_plain(self) -> bool:
        """Whether no picture changes."""
        return self.record().keys() <= {"fill_mode", "cval"}

    def draw(self, keys: np.ndarray, size: int) -> Draws:
        """The draw of each key, (n,) uint64, for pictures with sides of `size` pixels. Equal keys give equal draws."""
        unit = units(keys)
        matrices = affine(
            size,
            rotation=_either_side(unit["rotation"], self.rotation_range),
            x_shift=_shifts(self.width_shift_range, size, unit["x_shift"], unit["x_sign"]),
            y_shift=_shifts(self.height_shift_range, size, unit["y_shift"], unit["y_sign"]),
            shear=_either_side(unit["shear"], self.shear_range),
            x_zoom=_between(unit["x_zoom"], *_zooms(self.zoom_range)),
            y_zoom=_between(unit["y_zoom"], *_zooms(self.zoom_range)),
            mirror=(unit["mirror"] < 0.5) & self.horizontal_flip,
            turn_over=(unit["turn_over"] < 0.5) & self.vertical_flip,
        )
        return Draws(matrices, _between(unit["light"], *(self.brightness_range or (1.0, 1.0))))


def split_rescale(record: Mapping[str, Any]) -> tuple[float | None, dict[str, Any]]:
    """`rescale`, which belongs into the FeatureSpec (None if it is not given), and the rest. Raises SpecError."""
    rest = dict(record)
    given = rest.pop("rescale", None)
    rescale = None if given is None else _number("rescale", given)
    if rescale is not None and rescale <= 0:
        raise SpecError(f"`augment`: rescale takes a number over 0, for example {1 / 255!r} for 1/255; got {given!r}")
    return rescale, rest


def variant_keys(augmentation: str, image: bytes, numbers: Sequence[int]) -> np.ndarray:
    """(n,) uint64, one key per variant: a hash of the augmentation's digest, the image's digest and the number."""
    hashes = [sha256(augmentation.encode() + image + number.to_bytes(2, "little")).digest() for number in numbers]
    return np.array([int.from_bytes(digest[:8], "little") for digest in hashes], np.uint64)


def _between(unit: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + unit * (high - low)


def _either_side(unit: np.ndarray, reach: float) -> np.ndarray:
    return _between(unit, -reach, reach)


def _zooms(given: float | tuple[float, float]) -> tuple[float, float]:
    return given if isinstance(given, tuple) else (1 - given, 1 + given)


def _shifts(given: Shift, size: int, unit: np.ndarray, coin: np.ndarray) -> np.ndarray:
    """Shifts in pixels. An int n draws 0 twice as often as any other shift, as ImageDataGenerator does."""
    if isinstance(given, float):
        return _either_side(unit, given * size if given < 1 else given)
    choices = np.arange(given) if isinstance(given, int) else np.asarray(given)
    shifts = choices[(unit * len(choices)).astype(int)] * np.where(coin < 0.5, -1, 1)
    return shifts * size if np.abs(choices).max() < 1 else shifts


def _number(name: str, value: Any, low: float = -inf, high: float = inf) -> float:
    bounds = f" from {low:g} to {high:g}" if isfinite(high) else f" of at least {low:g}" if isfinite(low) else ""
    if not _is_finite(value) or not low <= float(value) <= high:
        hint = "; write a number such as 0.004, not a formula or a text" if isinstance(value, str) else ""
        raise SpecError(f"`augment`: {name} takes a finite number{bounds}, got {value!r}{hint}")
    return float(value) + 0.0  # -0.0 is 0.0


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _reach(name: str, value: Any) -> float:
    return _number(name, value, low=0)


def _ends(name: str, value: Any) -> tuple[float, float]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise SpecError(f"`augment`: {name} takes two numbers, for example [0.8, 1.2]; got {value!r}")
    low, high = sorted(_reach(name, end) for end in value)
    return low, high


def _zoom(name: str, value: Any) -> float | tuple[float, float]:
    zoom = _ends(name, value) if isinstance(value, Sequence) and not isinstance(value, str) else _reach(name, value)
    if _zooms(zoom)[0] <= 0:
        raise SpecError(
            f"`augment`: {name} takes z below 1 (from 1 - z to 1 + z), or two numbers over 0; got {value!r}"
        )
    return 0.0 if zoom == (1.0, 1.0) else zoom


def _shift(name: str, value: Any) -> Shift:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value):
        choices = tuple(_number(name, choice, -LONGEST_SHIFT, LONGEST_SHIFT) for choice in value)
        return choices if any(choices) else 0.0
    reach = _number(name, value, 0, LONGEST_SHIFT)
    return int(reach) if isinstance(value, Integral) and reach > 1 else 0.0 if isinstance(value, Integral) else reach


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SpecError(f"`augment`: {name} takes true or false, got {value!r}")
    return value


def _brightness(name: str, value: Any) -> tuple[float, float] | None:
    ends = None if value is None else _ends(name, value)
    return None if ends == (1.0, 1.0) else ends


def _fill_mode(name: str, value: Any) -> str:
    if value not in get_args(FillMode):
        raise SpecError(f"`augment`: {name} takes one of {', '.join(get_args(FillMode))}, got {value!r}")
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "shear_range": _reach,
    "zoom_range": _zoom,
    "rotation_range": _reach,
    "width_shift_range": _shift,
    "height_shift_range": _shift,
    "horizontal_flip": _flag,
    "vertical_flip": _flag,
    "brightness_range": _brightness,
    "fill_mode": _fill_mode,
    "cval": lambda name, value: _number(name, value, 0, 255),
}
