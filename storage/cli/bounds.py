"""Parse numbers with bounds from the command line."""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def at_least(least: Number, kind: type[Number]) -> Callable[[str], Number]:
    """An argparse type for finite numbers from `least` on. argparse reports any other text in one line."""
    return _bounded(kind, lambda number: least <= number < math.inf, f"{least:g} or more")


def between(least: Number, most: Number, kind: type[Number]) -> Callable[[str], Number]:
    """An argparse type for numbers from `least` to `most`, both included."""
    return _bounded(kind, lambda number: least <= number <= most, f"{least} to {most}")


def _bounded(kind: type[Number], is_meant: Callable[[Number], bool], expected: str) -> Callable[[str], Number]:
    def read(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected a number, got {text[:40]!r}") from None
        if not is_meant(number):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text[:40]}")
        return number

    return read
