"""`auto` takes the engine that this machine has measured to be the fastest."""

import dataclasses

import pytest

from vision.engines import rates, unload_engine
from vision.engines.parity import LARGEST_ERROR
from vision.engines.rates import PIXELS_WORTH_MEASURING, is_worth_measuring, known_rates, measure_rates
from vision.engines.selection import ENGINES, candidates, choose
from vision.specs import FeatureSpec

SPEC = FeatureSpec("0" * 32)
MANY = PIXELS_WORTH_MEASURING // SPEC.image_size**2


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    yield
    unload_engine()


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """Engines in the order in which they were measured. The last of the table is the fastest."""
    found: list[str] = []

    def rate(name: str, *others) -> float:
        found.append(name)
        return 1.0 + list(ENGINES).index(name)

    monkeypatch.setattr(rates, "_rate", rate)
    return found


def test_every_candidate_is_measured_once_per_machine_and_the_fastest_is_taken(measured):
    assert choose("auto", SPEC, False, known_rates(SPEC)) == candidates(SPEC)[0]
    for _ in range(3):
        measure_rates(SPEC, "random")
    assert measured == candidates(SPEC)
    assert choose("auto", SPEC, False, known_rates(SPEC)) == candidates(SPEC)[-1]


def test_other_weights_are_as_fast_and_another_size_is_measured_by_itself(measured):
    measure_rates(SPEC, "random")
    assert known_rates(dataclasses.replace(SPEC, weights="1" * 32)) == known_rates(SPEC)
    assert known_rates(dataclasses.replace(SPEC, image_size=96)) == {}


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_is_named_is_taken_however_fast_the_others_are(name):
    fast = {other: 1e6 for other in ENGINES if other != name}
    assert choose(name, SPEC, False, fast) == name
    assert choose("auto", SPEC, True, fast) == "tensorflow"


def test_a_rate_of_an_engine_that_cannot_compute_the_features_is_not_believed():
    spec = FeatureSpec("", "resnet50")
    assert choose("auto", spec, False, {"mnn": 1e6}) in candidates(spec)
    assert "mnn" not in candidates(spec)


def test_only_large_runs_measure_and_only_where_there_is_a_choice_that_can_be_kept(measured, tmp_path, monkeypatch):
    assert is_worth_measuring(SPEC, MANY)
    assert not is_worth_measuring(SPEC, MANY - 1)
    assert not is_worth_measuring(dataclasses.replace(SPEC, image_size=32), MANY)
    assert not is_worth_measuring(dataclasses.replace(SPEC, precision="mixed_float16"), 1000 * MANY)
    (tmp_path / "file").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert not is_worth_measuring(SPEC, MANY)
    measure_rates(SPEC, "random")
    assert not is_worth_measuring(SPEC, MANY)


def test_real_engines_have_rates_and_one_that_another_replaces_has_none(engine, spec, monkeypatch):
    assert rates._rate("mnn", spec, "random") > 0
    unload_engine()
    monkeypatch.setitem(LARGEST_ERROR, spec.dtype, 0.0)
    assert rates._rate("mnn", spec, "random") is None
