"""The page of an evaluation, from figures that are made up."""

import re

import numpy as np
import pytest

from tests import browser
from tests.vision.report.test_report import HOSTILE, NAMES, Page, mistakes
from vision.prediction.metrics import compare, measure
from vision.report.evaluation_page import EvaluationReport, HeadFigures, render

HEADS = "a3ac7f79cd801010e99dba50466438a1", "b04d3f5e6a7980112233445566778899"


def page(classes: tuple[str, ...] = ("cats", "dogs"), heads: int = 2, images: int = 400, seen: int | None = 0) -> str:
    draw = np.random.default_rng(len(classes))
    labels = draw.integers(0, len(classes), images)
    scores = [draw.dirichlet([0.3] * len(classes), images) + 0.7 * np.eye(len(classes))[labels] for _ in range(heads)]
    probabilities = [(each / each.sum(axis=1, keepdims=True)).astype(np.float32) for each in scores]
    measured = tuple(measure(labels, each) for each in probabilities)
    compared = compare(labels, *probabilities) if heads == 2 else None
    figures = tuple(
        HeadFigures(
            head=name,
            version=3,
            fingerprint="f" * 32,
            correct=each.correct,
            accuracy=each.accuracy,
            accuracy_interval=each.interval,
            log_loss=each.log_loss,
            calibration_error=each.calibration_error,
            impossible=each.impossible,
            trained_on=seen,
        )
        for name, each in zip(HEADS, measured, strict=False)
    )
    return render(
        EvaluationReport(
            source=f"the images of {HOSTILE}",
            split="evaluated",
            images="/data/photos",
            classes=classes,
            heads=figures,
            measured=measured,
            compared=compared,
            verdict=compared.verdict(HEADS[0][:8], HEADS[1][:8]) if compared else "",
            mistakes=mistakes(classes, 7),
            reasons={"truncated": 3, "vanished": 1},
            unknown={HOSTILE: 12},
        )
    )


@pytest.mark.parametrize("classes", [("cats", "dogs"), NAMES, tuple(f"class {n}" for n in range(40))])
def test_no_name_becomes_code_and_nothing_is_loaded(classes):
    text = page(classes)
    found = Page.of(text)
    assert found.open == []
    assert {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object"} == set()
    assert not [attributes for _, attributes in found.tags if any(name.startswith("on") for name in attributes)]
    assert re.search("default-src 'none'; style-src 'unsafe-inline'; img-src data:", text)
    assert all(attributes["src"].startswith("data:") for attributes in found.all("img"))
    identifiers = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert HOSTILE in found.text


def test_the_page_says_what_is_not_in_the_figures():
    text = Page.of(page(seen=55)).text
    assert "3 unusable (truncated)" in text
    assert "12 of the class" in text
    assert "was trained on 55 of these images" in text


def test_two_heads_share_a_chart_and_one_has_no_comparison():
    both, one = Page.of(page()), Page.of(page(heads=1))
    assert "McNemar" in both.text
    assert "McNemar" not in one.text
    assert len(both.all("table")) == len(one.all("table")) + 2


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("is_dark", [False, True])
def test_the_page_fits_a_phone_and_a_desk_in_light_and_dark(tmp_path, width, is_dark):
    look = browser.look(page(NAMES), tmp_path, width, is_dark=is_dark)
    assert look.overflow <= 0
    assert (np.asarray(look.picture).mean() < 100) == is_dark
