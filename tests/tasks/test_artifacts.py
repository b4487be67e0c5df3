"""What the Prefect UI shows of a head: the artifact as rendered Markdown."""

import re

import pytest
from markdown_it import MarkdownIt

from tasks import artifacts
from tests import toy
from vision.training.head import HeadSpec
from workers.jobs.records import HeadJob, HeadResult, VersionRecord

NAMES = ("a|b", "*bold* _x_ `y`", "<b>&lt;", "[link](address)", r"back\slash|", "two\nlines")


@pytest.fixture
def texts(images, store, monkeypatch) -> list[str]:
    """The text of each paragraph and cell of a head's report."""
    record = {
        "per_class": {name: {"precision": 0.25, "recall": None, "images": 7} for name in NAMES},
        "confusion": [[0] * len(NAMES)] * len(NAMES),
    }
    written: list[str] = []
    monkeypatch.setattr(artifacts, "read_head", lambda store, name: record)
    monkeypatch.setattr(artifacts, "create_markdown_artifact", lambda markdown, **_: written.append(markdown))
    job = HeadJob(toy.space(images, store), 1, "a" * 32, HeadSpec(NAMES), seed=0)
    artifacts.show_head(job, HeadResult("a" * 32, True, True, 1, 0.5, 0.5, 1.0, 1.0))
    tokens = MarkdownIt("commonmark").enable("table").parse(written[0])
    return ["".join(part.content for part in token.children) for token in tokens if token.type == "inline"]


def test_the_images_that_cannot_be_used_are_a_table_with_reason_message_attempts_and_times(images, store, monkeypatch):
    (images / "cats" / "bro\nken.png").write_bytes(b"")
    _, version = toy.run(images, store)
    written: list[dict] = []
    monkeypatch.setattr(artifacts, "create_table_artifact", lambda **given: written.append(given))
    record = VersionRecord(version.number, version.data_digest, version.counts, version.classes, ("cats", "dogs"))
    artifacts.show_quarantine(toy.space(images, store), record)
    ((row,),) = [given["table"] for given in written]
    assert re.fullmatch(r"20\d\d-.* UTC", row.pop("first seen"))
    assert re.fullmatch(r"20\d\d-.* UTC", row.pop("last tried"))
    assert row == {
        "path": r"cats/bro\nken.png",
        "reason": "zero_byte",
        "message": "the file is empty",
        "attempts": 1,
    }


def test_whatever_a_class_is_called_is_read_as_it_is_called(texts):
    names = [" ".join(name.split()) for name in NAMES]
    assert f"classes {', '.join(names)}." in next(text for text in texts if text.startswith("Trained by this run"))
    for name in names:
        assert texts.count(name) == 3  # in its scores, its row and its column of the confusion matrix


def test_a_figure_that_does_not_exist_is_an_empty_cell(texts):
    at = texts.index("0.2500")
    assert texts[at : at + 3] == ["0.2500", "", "7"]
