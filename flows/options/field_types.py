"""Types of fields that several options share."""

from typing import Annotated, Any

import pydantic
from pydantic import Field

from flows.options.roots import IMAGE_ROOTS, can_lead_out, joined, roots

LARGEST_SEED = 2**32 - 2  # Keras takes 32-bit seeds, and the last layer uses the next one
LARGEST_COUNT = 2**31 - 1  # of epochs, and of steps per epoch: their product fits in 64 bits

Fraction = Annotated[float, Field(ge=0, le=1)]


def _class_names(value: Any) -> Any:
    """Class names as a tuple, from `cat, dog` or a list. Integers become text: JSON and YAML read digits as numbers."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    is_list = isinstance(names, list | tuple)
    return tuple(str(name) if type(name) is int else name for name in names) if is_list else names


ClassNames = Annotated[
    tuple[str, ...], pydantic.BeforeValidator(_class_names, json_schema_input_type=str | tuple[str | int, ...])
]


def _stays_below_the_roots(follows: bool) -> bool:
    if follows and can_lead_out(IMAGE_ROOTS):
        raise ValueError(
            f"--outside-links: links may lead out of the allowed roots ({joined(roots(IMAGE_ROOTS))}); "
            f"leave the flag out, or set {IMAGE_ROOTS}=/ where the worker starts"
        )
    return follows


OutsideLinks = Annotated[bool, pydantic.AfterValidator(_stays_below_the_roots)]
