"""The command line end to end over a folder of names at the edges."""

import json
import os
import socket
from pathlib import Path

import pytest

from storage.layout import Store
from storage.manifest.versions import latest_version
from storage.source.folder_layout import text
from tests import odd, toy
from tests.flows.conftest import TINY

ROOT = "a %41 $HOME 'q' \"r\" {images} é👩 #?&<b>\\ \n-"


@pytest.fixture
def folder(tmp_path: Path):
    """Every odd name as a class of four pictures, and all that is not an image and not a folder of some."""
    with odd.room_for_depth(tmp_path) as deep:
        root = deep / ROOT
        for number, name in enumerate(odd.NAMES.values()):
            for index in range(4):
                odd.file(root, b"/".join([name, name, b"%d" % index + name[:200] + b".png"]), number * 10 + index)
        toy.picture(root / "cat" / "only.png", 9999)
        os.link(root / "cat" / "only.png", root / "cat" / "hard.png")
        os.symlink("only.png", root / "cat" / "soft.png")
        for name in (".DS_Store", "._1.jpg", "Thumbs.db", "1.jpg~", "1.jpg.part"):
            (root / "cat" / name).write_bytes(b"left over")
        os.mkfifo(root / "cat" / "pipe.jpg")
        here = os.getcwd()
        os.chdir(root / "cat")  # a socket's path may have 107 bytes only
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket.jpg")
        os.chdir(here)
        os.symlink("nowhere", root / "cat" / "dangling.jpg")
        os.symlink("itself.jpg", root / "cat" / "itself.jpg")
        os.symlink("..", root / "cat" / "loop")
        odd.nest(root, [b"\xff", *[b"\xfd" * 255] * 18], b"out of reach")
        yield root


@pytest.mark.slow
def test_a_folder_of_odd_names_becomes_a_version_and_a_head(pipeline, folder, tmp_path):
    store = tmp_path / "store"
    done = pipeline("--images", folder, "--store", store, *TINY)
    assert done.status == 0, done.stderr
    images = 4 * len(odd.NAMES) + 3
    assert (done.record["images"], done.record["new"], done.record["pending"]) == (images, images, 0)
    assert (done.record["extracted"], done.record["quarantined"]) == (images - 2, 0)
    assert done.record["classes"] == len(odd.NAMES)
    assert done.record["ignored"] == 9
    where = Store(store, done.record["fingerprint"])
    assert set(latest_version(where).read_files(where)["class"].to_pylist()) == set(map(text, odd.NAMES.values()))
    described = json.loads((store / "heads" / done.record["head"] / "head.json").read_text())
    assert described["classes"] == sorted(map(text, odd.NAMES.values()))
    assert "cannot read 1 folder" in done.stderr
    assert "Traceback" not in done.stderr
