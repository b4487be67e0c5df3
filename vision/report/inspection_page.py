"""The page about the data of a version: what an inspection found, with pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vision.inspection.outliers import NEIGHBOURS
from vision.inspection.quality import ASPECT, BLANK, BLURRED, BRIGHT, DARK, SIDE, TINY
from vision.report.augmentation_samples import address
from vision.report.page import fill

# Kind of finding → its title, and what it means.
MEANINGS = {
    "leak": (
        "Leaks",
        "One picture on both sides of a split, so the held-out figures are too good. The training image is listed, beside its held-out partner.",
    ),
    "conflict": ("Conflicts", "One picture in two classes. At least one of the labels is wrong."),
    "suspect": (
        "Suspect labels",
        "A classifier that never saw the image is sure of another class (confident learning, Northcutt, Jiang and Chuang 2021).",
    ),
    "redundant": (
        "Redundant images",
        "One picture several times in a class and split. All but one of them are listed.",
    ),
    "blank": ("Blank", f"The grey levels vary by less than {BLANK:g} of 255."),
    "dark": ("Too dark", f"99 % of the pixels are darker than {DARK:.0%} of white."),
    "bright": ("Too bright", f"95 % of the pixels are brighter than {BRIGHT:.0%} of white."),
    "blurred": ("Blurred", f"The variance of the Laplacian is under {BLURRED:g} at {SIDE} pixels."),
    "tiny": ("Tiny", f"The shorter side is less than {TINY:.0%} of the network's input."),
    "elongated": (
        "Elongated",
        f"The shorter side is less than {ASPECT:.0%} of the longer one, so the square that the network sees is distorted.",
    ),
    "far": ("Far from every class", f"The {NEIGHBOURS}th most similar image is much less similar than usual."),
}


@dataclass(frozen=True)
class Picture:
    """An image of the report. thumbnail: a JPEG; None if the file can no longer be used, and `fault` says why."""

    path: str
    label: str
    split: str
    thumbnail: bytes | None = None
    fault: str = ""

    @property
    def address(self) -> str | None:
        """The thumbnail as a data URI."""
        return None if self.thumbnail is None else address(self.thumbnail)


@dataclass(frozen=True)
class Found:
    """A finding. partner: the other image of a pair. suggested: the class that the image seems to have, or empty."""

    picture: Picture
    partner: Picture | None
    suggested: str
    score: float


@dataclass(frozen=True)
class Section:
    """The findings of a kind. total: their number, of which `images` are the first."""

    kind: str
    total: int
    images: tuple[Found, ...]

    @property
    def title(self) -> str:
        return MEANINGS[self.kind][0]

    @property
    def meaning(self) -> str:
        return MEANINGS[self.kind][1]


@dataclass(frozen=True)
class InspectionReport:
    """The content of the page. found: the record of the inspection (workers/jobs/inspect_data.py, Inspected)."""

    images: str
    number: int
    committed: str
    found: Mapping[str, Any]
    sections: tuple[Section, ...]


def render(report: InspectionReport) -> str:
    """The page as HTML."""
    tiles = [(MEANINGS[kind][0], kind, number) for kind, number in report.found["findings"].items()]
    return fill("inspection.html", report=report, found=report.found, tiles=tiles)
