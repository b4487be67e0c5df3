"""What the README tells people to type is what works."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from deployments.__main__ import parse as parse_up
from flows.cli.pipeline import parse
from flows.cli.study import parse as parse_study
from storage.cli.main import parse as parse_storage
from tests import toy
from tests.flows.conftest import free_port
from tests.test_layers import PROJECT
from vision.specs import BACKBONES

README = (PROJECT / "README.md").read_text()
COMMANDS = [line.strip() for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]


def pipeline_calls() -> list[str]:
    text = "\n".join(COMMANDS).replace("\\\n", " ")
    return re.findall(r"python flows/pipeline\.py[^\n&|]*", text)


def test_the_readme_has_the_two_commands():
    assert any(call.strip() == "python flows/pipeline.py" for call in pipeline_calls())
    assert any("python -m pytest" in command for command in COMMANDS)


@pytest.mark.parametrize("call", sorted(set(pipeline_calls())))
def test_every_call_of_the_pipeline_is_one_that_it_takes(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos.yaml").write_text("images: photos\n")
    with suppress(SystemExit):  # --help
        parse(shlex.split(call)[2:])


@pytest.mark.parametrize("call", re.findall(r"python flows/batch_size_study\.py[^\n&|]*", "\n".join(COMMANDS)))
def test_every_call_of_the_study_is_one_that_it_takes(call):
    parse_study(shlex.split(call)[2:])


def storage_calls() -> list[str]:
    return [command for command in COMMANDS if command.startswith("python -m storage")]


@pytest.mark.parametrize("call", storage_calls())
def test_every_call_of_the_storage_command_is_one_that_it_takes(call):
    parse_storage(shlex.split(call)[3:])


def test_every_call_of_the_deployments_is_one_that_it_takes():
    calls = [shlex.split(command)[3:] for command in COMMANDS if command.startswith("python -m deployments ")]
    assert [command for command, *_ in calls] == ["up", "down"]
    assert all(parse_up(rest)[1] == 4200 for command, *rest in calls if command == "up")


def test_the_readme_calls_each_storage_command():
    assert {call.split()[3] for call in storage_calls()} == {
        *("show", "history", "diff", "export"),
        *("verify", "repair", "compact", "gc", "quarantine"),
    }


def test_every_file_that_the_documents_name_is_there():
    for document in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} → {target}"


@pytest.mark.slow
def test_the_demo_does_what_the_readme_says(tmp_path: Path):
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {
        "PREFECT_HOME": str(tmp_path / "p")
    }
    records = []
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
    first, second = records
    assert (first["images"], first["extracted"], first["version"]) == (1797, 1797, 1)
    assert first["val_accuracy"] >= 0.95
    assert (second["extracted"], second["unchanged"], second["version"]) == (0, 1797, 1)
    assert (second["head"], second["val_accuracy"]) == (first["head"], first["val_accuracy"])
    assert "nothing to do" in done.stderr
    assert "untrained" in done.stderr


@pytest.mark.slow
def test_every_command_of_the_readme_does_its_work_when_typed_one_after_another(tmp_path: Path, bucket, request):
    """All but those that install, which CI types. Keras finds a file where it keeps the ImageNet weights."""
    toy.pictures(tmp_path / "photos", per_class=20)
    bucket.fs.mkdir("bucket")
    bucket.fs.put(f"{tmp_path}/photos/", "bucket/photos/", recursive=True)
    rows = (f"{name}/{number:03d}.png,{name}" for name in ("cats", "dogs") for number in range(20))
    (tmp_path / "photos.csv").write_text("\n".join(["path,class", *rows]))
    (tmp_path / "photos.yaml").write_text("images: photos\nstore: photos-store\nweights: vgg16_notop.weights.h5\n")
    toy.weights_file(tmp_path / "vgg16_notop.weights.h5", seed=1)
    imagenet = tmp_path / "keras" / "models" / BACKBONES["vgg16"].imagenet[0]
    imagenet.parent.mkdir(parents=True)
    toy.weights_file(imagenet, seed=1)  # as a file that somebody has got of them would hold
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "KERAS_HOME": str(tmp_path / "keras"),
        "PREFECT_SERVER_API_PORT": str(free_port()),
    }
    request.addfinalizer(lambda: typed(["-m", "deployments", "down"], tmp_path, environment))
    calls = [call for call in COMMANDS if "pip install" not in call and not call.endswith("--help")]
    for number, call in enumerate(calls):
        toy.picture(tmp_path / "photos" / "cats" / f"later-{number}.png", 5000 + number)
        if call.startswith("tensorboard "):
            assert "train" in runs_of_tensorboard(call, tmp_path)
            continue
        words = shlex.split(call.replace("python flows/", f"python {PROJECT}/flows/"))
        words = ["-m", *words] if words[0] == "prefect" else words[1:]
        done = typed(words, tmp_path, environment)
        assert done.returncode == 0, f"{call}\n{done.stderr}"
    assert json.loads((tmp_path / "photos-npz" / "classes.json").read_text())["classes"] == ["cats", "dogs"]


def typed(words: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


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
