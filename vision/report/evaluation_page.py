"""The page about an evaluation: a head on labelled images, and perhaps another head on the same images."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vision.prediction.metrics import Compared, Measured
from vision.report.charts import reliability
from vision.report.page import Shown, Split, fill, of_splits


@dataclass(frozen=True)
class HeadFigures:
    """The figures of a head in an evaluation.

    version: the version that it was trained on. accuracy_interval: 95 %. impossible: number of images whose true class has
    probability 0. trained_on: number of images that the head was trained on; None if that is not known.
    """

    head: str
    version: int
    fingerprint: str
    correct: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    log_loss: float
    calibration_error: float
    impossible: int
    trained_on: int | None


@dataclass(frozen=True)
class EvaluationReport:
    """The content of the page.

    source: what was evaluated. split: what the page calls the images, for example `test`. classes: their names, each in one
    line. heads, measured: of the head and of the one that it is compared with. mistakes: of the first head, the worst first. reasons: code →
    number of images without a prediction. unknown: class that the head does not know → number of images.
    """

    source: str
    split: str
    images: str
    classes: tuple[str, ...]
    heads: tuple[HeadFigures, ...]
    measured: tuple[Measured, ...]
    compared: Compared | None
    verdict: str
    mistakes: tuple[Shown, ...]
    reasons: Mapping[str, int]
    unknown: Mapping[str, int]


def render(report: EvaluationReport) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    found = report.measured[0]
    scores = tuple(asdict(each) for each in found.classes)
    split = Split(report.split, found.log_loss, found.accuracy, found.confusion, scores)
    points = [[(each.confidence, each.accuracy, each.images) for each in one.bins] for one in report.measured]
    return fill(
        "evaluation.html",
        report=report,
        chart=Markup(reliability(points, "reliability")),
        **of_splits([split]),
    )
