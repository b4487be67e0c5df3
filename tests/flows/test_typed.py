"""What the README and the documents tell people to type does its work when typed.

The demo and the first command of the README are processes with a server of their own. The other commands of flows run
in this process, on the server of the session.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from flows.cli.command import main
from flows.registry import FLOWS
from tests import toy
from tests.flows.in_process import call
from tests.test_layers import PROJECT
from tests.test_readme import COMMANDS, START, TYPED
from vision.specs import BACKBONES

pytestmark = pytest.mark.slow
BY_PATH = {flow.path: flow for flow in FLOWS.values()}


def test_the_demo_does_what_the_readme_says(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {
        "PREFECT_HOME": str(tmp_path / "p")
    }
    records, told = [], []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, PROJECT / "flows" / "pipeline.py"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        records.append(json.loads(done.stdout.splitlines()[-1]))
        told.append(done.stderr)
    first, second = records
    assert (first["images"], first["extracted"], first["version"]) == (1797, 1797, 1)
    assert first["val_accuracy"] >= 0.95
    assert (second["extracted"], second["unchanged"], second["version"]) == (0, 1797, 1)
    assert (second["head"], second["val_accuracy"]) == (first["head"], first["val_accuracy"])
    assert "Flow run" in told[0]
    assert "View at" not in told[0], "a run's own server has no pages, and is gone with the run"
    assert "nothing to do" in done.stderr
    assert "the weights are random" in done.stderr


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder in which somebody has typed what the README says of their images, with all that the documents name beside it."""
    folder = tmp_path_factory.mktemp("desk")
    toy.pictures(folder / "photos", per_class=20)
    toy.pictures(folder / "inbox", per_class=2)
    rows = (f"{name}/{number:03d}.png,{name}" for name in ("cats", "dogs") for number in range(20))
    (folder / "photos.csv").write_text("\n".join(["path,class", *rows]))
    (folder / "photos.yaml").write_text("images: photos\nstore: photos-store\nweights: vgg16_notop.weights.h5\n")
    toy.weights_file(folder / "vgg16_notop.weights.h5", seed=1)
    imagenet = folder / "keras" / "models" / BACKBONES["vgg16"].imagenet[0]
    imagenet.parent.mkdir(parents=True)
    toy.weights_file(imagenet, seed=1)  # as a file that somebody has got of them would hold
    (line,) = lines_of([START])
    typed(line.replace("python flows/", f"python {PROJECT}/flows/"), folder)
    return folder


@pytest.mark.parametrize("group", TYPED)
def test_every_command_does_its_work_when_typed(group, desk: Path, tmp_path: Path, bucket, environment, monkeypatch):
    """All but those that install, which CI types. Keras finds a file where it keeps the ImageNet weights."""
    folder, lines = Path(shutil.copytree(desk, tmp_path / "desk")), lines_of(TYPED[group])
    if any("s3://" in line for line in lines):
        bucket.fs.mkdir("bucket")
        bucket.fs.put(f"{folder}/photos/", "bucket/photos/", recursive=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KERAS_HOME", str(folder / "keras"))
    for line in lines:
        if "--initial-epoch" not in line:  # a training that continues keeps its images
            number = len(list((folder / "photos" / "cats").iterdir()))
            toy.picture(folder / "photos" / "cats" / f"{number:03d}.png", 5000 + number)
        if line.startswith("tensorboard "):
            assert "train" in runs_of_tensorboard(line, folder)
        elif line.startswith("python flows/"):
            run(line, environment)
        else:
            typed(line, folder)
    if group == "store":
        exported = json.loads((folder / "photos-npz" / "classes.json").read_text())
        assert exported["classes"] == ["cats", "dogs"]


def lines_of(sections: list[tuple[str, str]]) -> list[str]:
    """The commands of these sections, each once, without those that install or show help."""
    chosen = [command.line for section in sections for command in COMMANDS if command[:2] == section]
    found = [line for line in dict.fromkeys(chosen) if "pip install" not in line and not line.endswith("--help")]
    assert found
    return found


def run(line: str, environment: dict[str, str]) -> None:
    """Run the command of a flow in this process."""
    _, path, *words = shlex.split(line)
    flow = BY_PATH[path]
    runner = ("--runner", "inline") if "runner" in flow.options.model_fields else ()
    done = call(partial(main, flow), environment, *words, *runner)
    assert done.status == 0, f"{line}\n{done.stderr}"


def typed(line: str, folder: Path) -> None:
    """Type a command of Python in a folder, where no Prefect server is configured."""
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    own = {"PREFECT_HOME": str(folder / "prefect"), "KERAS_HOME": str(folder / "keras")}
    words = [sys.executable, *shlex.split(line)[1:]]
    done = subprocess.run(words, cwd=folder, env=kept | own, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{line}\n{done.stderr}"


def runs_of_tensorboard(call: str, folder: Path) -> str:
    """The runs that TensorBoard shows when it is started so."""
    with subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *shlex.split(call)[1:], "--port", "0", "--load_fast", "false"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            address = next(found for line in process.stderr if (found := re.search(r"http://\S+", line))).group()
            for _ in range(60):
                with urllib.request.urlopen(f"{address}data/runs", timeout=30) as answer:
                    runs = answer.read().decode()
                if "train" in runs:
                    break
                time.sleep(1)
            return runs
        finally:
            process.kill()
