"""On how many examples a property is tried: EXAMPLES=3 tries three times as many as usual."""

import os

from hypothesis import HealthCheck, settings

TIMES = float(os.environ.get("EXAMPLES", "1"))


def examples(usual: int) -> int:
    return max(1, round(TIMES * usual))


def load_profile() -> None:
    """The same examples every time; how long one takes says nothing on a shared machine."""
    settings.register_profile(
        "repeatable",
        max_examples=examples(20),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    settings.load_profile("repeatable")
