"""`--augment` in every accepted notation, and the one text that it becomes."""

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


def _augmentation(value: Any) -> str | None:
    """One JSON text for what means the same: from a mapping, from JSON or YAML, or from a file of either."""
    if value is None:
        return None
    text = _file_of_augmentation(value) if str(value).endswith((".json", ".yaml", ".yml")) else value
    record = _read_augmentation(text) if isinstance(text, str) else text
    if not isinstance(record, Mapping):
        raise ValueError(
            "--augment: expected parameters with their values, as '{\"rotation_range\": 20}', or a file of them"
        )
    rescale, rest = split_rescale(record)
    own = {} if rescale == 1 else {"rescale": rescale}
    return json.dumps(Augmentation.of(rest).record() | own, sort_keys=True)


def _read_augmentation(text: str) -> Any:
    """What a text says, as JSON where it is that: YAML takes JSON's 1e-05 for a word."""
    try:
        try:
            return json.loads(text)
        except ValueError:
            return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--augment: neither JSON nor YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(
            "--augment: lists in lists in lists without an end; expected '{\"rotation_range\": 20}'"
        ) from None


def _file_of_augmentation(path: str) -> str:
    path = os.path.abspath(at_home(path))
    check_below("--augment", path, IMAGE_ROOTS)
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--augment: {path} cannot be read: {error}") from None


Augment = Annotated[str, pydantic.BeforeValidator(_augmentation, json_schema_input_type=str | dict[str, Any])]
