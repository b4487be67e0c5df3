"""Numbers of the command line that have to lie within bounds."""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def at_least(least: Number, kind: type[Number]) -> Callable[[str], Number]:
    """What makes a finite number of a flag's text; argparse tells of any other in one line."""

    def read(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {text[:40]!r}") from None
        if not least <= number < math.inf:
            raise argparse.ArgumentTypeError(f"expected {least:g} or more, got {text[:40]}")
        return number

    return read
