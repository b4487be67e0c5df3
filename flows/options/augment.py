"""Parse `--augment`, in every accepted notation, to one value."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml

from flows.options.roots import IMAGE_ROOTS, check_below
from storage.backend.paths import at_home
from vision.pixels.augmentation import Augmentation, split_rescale


def parse_augment(value: Any) -> tuple[Augmentation | None, float | None]:
    """The augmentation and the `rescale` in a value. None: not given, or an augmentation that changes no image.

    value: a mapping, JSON or YAML, a file of either, or an Augmentation. Raises ValueError.
    """
    if value is None or isinstance(value, Augmentation):
        return value, None
    text = _file_of_augmentation(value) if str(value).endswith((".json", ".yaml", ".yml")) else value
    record = _read_augmentation(text) if isinstance(text, str) else text
    if not isinstance(record, Mapping):
        raise ValueError(
            "--augment: expected parameters with their values, for example '{\"rotation_range\": 20}', or a file of them"
        )
    rescale, rest = split_rescale(record)
    augmentation = Augmentation.of(rest)
    return None if augmentation.is_plain else augmentation, rescale


def move_rescale(values: dict[str, Any]) -> dict[str, Any]:
    """Parse the parameter `augment`, and move the `rescale` in it to the parameter `rescale`.

    Raises ValueError if both are given and differ.
    """
    if values.get("augment") is None:
        return values
    augmentation, found = parse_augment(values["augment"])
    given = values.get("rescale")
    if found is None:
        return values | {"augment": augmentation}
    if given is not None and _number(given) not in (found, None):
        raise ValueError(f"--rescale: got {given!r}, but --augment has rescale {found}; give one of them")
    return values | {"augment": augmentation, "rescale": found if given is None else given}


def _number(value: Any) -> float | None:
    """The value as a number, or None if it is none, which the field's own validation reports."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _augmentation(value: Any) -> Augmentation | dict[str, Any] | None:
    """An Augmentation, or a record while a `rescale` is in it.

    Prefect checks each parameter by itself. Only the options as a whole can move the `rescale` to its own field.
    """
    augmentation, rescale = parse_augment(value)
    if rescale is None:
        return augmentation
    return (augmentation.record() if augmentation else {}) | {"rescale": rescale}


def _read_augmentation(text: str) -> Any:
    """Parse a text as JSON, or else as YAML, which reads JSON's 1e-05 as a text."""
    try:
        try:
            return json.loads(text)
        except ValueError:
            return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--augment: expected JSON or YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError("--augment: nested too deeply; expected '{\"rotation_range\": 20}'") from None


def _file_of_augmentation(path: str) -> str:
    path = os.path.abspath(at_home(path))
    check_below("--augment", path, IMAGE_ROOTS)
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--augment: {path} cannot be read: {error}") from None


Augment = Annotated[
    Augmentation,
    pydantic.PlainValidator(_augmentation, json_schema_input_type=str | dict[str, Any]),
    pydantic.PlainSerializer(lambda augmentation: augmentation.text, return_type=str),
]
