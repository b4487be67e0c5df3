"""One run over every kind of bad and odd file among good photos, through the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage.layout import Store
from storage.manifest.versions import latest_version
from tests import bad, toy
from tests.flows.conftest import PROJECT, TINY

GOOD = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """200 good pictures, every kind of bad and odd file, and what is no file of pictures at all."""
    images = toy.pictures(tmp_path_factory.mktemp("hostile") / "images", per_class=GOOD // 2)
    for index, (name, (_, data)) in enumerate(bad.KINDS.items()):
        (images / ("cats", "dogs")[index % 2] / name).write_bytes(data)
    for name, path in odd_paths(images).items():
        assert os.path.lexists(path), name
    return images


def odd_paths(images: Path) -> dict[str, Path]:
    """What is found below class folders and is neither a regular file nor a folder of such."""
    outside = toy.picture(images.parent / "outside" / "secret.png", 5000)
    made = {name: images / "cats" / f"{name}.jpg" for name in ("pipe", "link out", "link to nothing", "link to itself")}
    os.mkfifo(made["pipe"])
    made["link out"].symlink_to(outside)
    made["link to nothing"].symlink_to(images / "nothing.jpg")
    made["link to itself"].symlink_to(made["link to itself"])
    made["folder out"] = images / "dogs" / "folder out"
    made["folder out"].symlink_to(outside.parent)
    made["device"] = images / "dogs" / "device.jpg"
    made["device"].symlink_to("/dev/zero")
    made["folder"] = images / "dogs" / "folder.jpg"
    made["folder"].mkdir()
    return made


@pytest.fixture(scope="module")
def run(pipeline, folder):
    given = ("--images", folder, "--store", folder.parent / "store", *TINY)
    return pipeline(*given, "--runner", "local", "--workers", "1")  # a file that ends its process ends a child


def statuses(folder: Path, fingerprint: str) -> dict[str, tuple[str, str | None]]:
    store = Store(folder.parent / "store", fingerprint)
    files = latest_version(store).read_files(store).to_pylist()
    return {os.fsdecode(row["path"]).partition("/")[2]: (row["status"], row["reason"]) for row in files}


def test_every_good_picture_has_its_row_and_every_bad_one_its_code(run, folder):
    assert len(bad.KINDS) >= 60
    found = statuses(folder, run.record["fingerprint"])
    expected = {name: ("quarantined", code) if code else ("ok", None) for name, (code, _) in bad.KINDS.items()}
    assert {name: found[name] for name in expected} == expected
    others = {name: status for name, status in found.items() if name not in expected}
    assert set(others.values()) == {("ok", None)}
    assert run.record["images"] == GOOD + len(bad.KINDS)


def test_the_run_ends_by_the_budget_and_without_a_traceback(run, pipeline, folder):
    assert run.status == 3, run.stderr
    assert f"{len(bad.BAD)} of {run.record['images']} images are unusable" in run.stderr
    assert "Traceback" not in run.stderr
    within = pipeline("--images", folder, "--store", folder.parent / "store", *TINY, "--max-bad-fraction", "0.5")
    assert (within.status, within.record["extracted"]) == (0, 0), within.stderr
    assert "Traceback" not in within.stderr


def test_links_that_lead_out_are_told_of_and_followed_where_that_is_asked_for(run, pipeline, folder):
    assert "out of" in run.stderr
    assert "--outside-links" in run.stderr
    planned = pipeline("--images", folder, "--store", folder.parent / "store", *TINY, "--outside-links", "--plan")
    assert planned.record["new"] == 2


def test_the_quarantine_lists_each_with_what_is_wrong(run, folder):
    command = [sys.executable, "-m", "storage", "quarantine", "--store", folder.parent / "store"]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True).stdout
    for name, (code, _) in bad.BAD.items():
        assert any(line.startswith(code) and line.endswith(f"/{name}") for line in listed.splitlines()), name
    assert "truncated: the end of the file is missing" in listed
