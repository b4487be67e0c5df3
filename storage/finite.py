"""Replace NaN and infinity with null in records, because JSON has neither."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """The record with None in place of each float that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(finite(item) for item in value)
    return value


def is_finite(value: float | None) -> bool:
    """Whether a figure is a finite number. None, the null of a record, is not."""
    return value is not None and math.isfinite(value)
