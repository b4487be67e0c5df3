"""What the README and the documents tell people to type works."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from deployments.__main__ import parse as parse_up
from flows import reap
from flows.cli.command import parse
from flows.registry import FLOWS
from serving.__main__ import parse as parse_serving
from storage.cli.main import parse as parse_storage
from tests import toy
from tests.flows.prefect_server import free_port
from tests.test_layers import PROJECT
from vision.specs import BACKBONES


class Command(NamedTuple):
    """A line that a document tells people to type."""

    document: str
    section: str
    line: str


def commands_of(document: Path) -> list[Command]:
    """The lines of its shell blocks, each with the heading above it."""
    name, section, found, is_inside = str(document.relative_to(PROJECT)), "", [], False
    for line in document.read_text().splitlines():
        if line.startswith("```"):
            is_inside = line == "```sh"
        elif is_inside and line.strip():
            found.append(Command(name, section, line.strip()))
        elif line.startswith("#"):
            section = line.lstrip("# ")
    return found


COMMANDS = [
    command
    for document in (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
    for command in commands_of(document)
]
README = [command.line for command in COMMANDS if command.document == "README.md"]
PARSERS = {flow.path: partial(parse, flow) for flow in FLOWS.values()} | {
    "-m storage": parse_storage,
    "-m flows.reap": reap.parse,
    "-m serving": parse_serving,
    "-m deployments up": parse_up,
}
START = ("README.md", "Your images")
# What a test types in earnest once that is done, in an order in which each finds what it needs.
TYPED = {
    "images": [
        ("docs/folders.md", "Tables of labels"),
        ("docs/cli.md", "The pipeline"),
        ("README.md", "See how good the head is"),
    ],
    "training": [("README.md", "Train differently"), ("docs/training.md", "How it reads the data")],
    "pictures": [("docs/augmentation.md", "Three ways to train on them")],
    "store": [
        START,
        ("docs/store.md", "Inspect a store"),
        ("docs/store.md", "Export features"),
        ("docs/store.md", "Maintain a store"),
        ("docs/cli.md", "The nightly maintenance"),
        ("docs/store.md", "Object stores"),
    ],
    "deployed": [("README.md", "Keep it running")],
}


def calls() -> list[tuple[str, str]]:
    """What each documented call of a program of ours is, and its arguments."""
    lines = [line for command in COMMANDS for line in re.split(r" && | \|\| | & ", command.line)]
    pattern = re.compile(rf"(?:^|[ /])python ({'|'.join(map(re.escape, PARSERS))})(?= |$)(.*)")
    return sorted({found.groups() for line in lines if (found := pattern.search(line))})  # type: ignore[misc]


def test_the_readme_begins_with_the_two_commands():
    first, second, *_ = README
    assert "pip install" in first
    assert first.endswith("python flows/pipeline.py")
    assert "pip install" in second
    assert "python -m pytest" in second


@pytest.mark.parametrize(("program", "arguments"), calls())
def test_every_documented_call_is_one_that_the_program_takes(program, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos.yaml").write_text("images: photos\n")
    with suppress(SystemExit):  # --help
        PARSERS[program](shlex.split(arguments))


def test_every_program_is_documented_by_a_call():
    assert {program for program, _ in calls()} == set(PARSERS)


@pytest.mark.parametrize("line", sorted({command.line for command in COMMANDS}))
def test_every_documented_command_is_a_program_that_exists(line):
    words = [word for word in shlex.split(line) if not re.fullmatch(r"\w+=\S*", word)]
    if "python" not in words:
        assert Path(words[0]).name in {"python3", "pip", "prefect", "tensorboard", "curl", "docker"}
    elif words[words.index("python") + 1] == "-m":
        assert find_spec(words[words.index("python") + 2])
    else:
        assert (PROJECT / words[words.index("python") + 1]).is_file()


def test_the_documents_call_each_storage_command():
    called = {arguments.split()[0] for program, arguments in calls() if program == "-m storage"}
    assert called >= {*("show", "history", "diff", "export"), *("verify", "repair", "compact", "gc", "quarantine")}


def test_every_section_whose_commands_are_typed_has_some():
    sections = {(command.document, command.section) for command in COMMANDS}
    assert {section for group in TYPED.values() for section in group} <= sections


def test_every_command_of_the_readme_is_typed_by_a_test():
    sections = {START, *(section for group in TYPED.values() for section in group)}
    lines = {command.line for command in COMMANDS if command[:2] in sections}
    assert [line for line in README if line not in lines and "pip install" not in line] == []


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


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder in which somebody has typed what the README says of their images, with all that the documents name beside it."""
    folder = tmp_path_factory.mktemp("desk")
    toy.pictures(folder / "photos", per_class=20)
    rows = (f"{name}/{number:03d}.png,{name}" for name in ("cats", "dogs") for number in range(20))
    (folder / "photos.csv").write_text("\n".join(["path,class", *rows]))
    (folder / "photos.yaml").write_text("images: photos\nstore: photos-store\nweights: vgg16_notop.weights.h5\n")
    toy.weights_file(folder / "vgg16_notop.weights.h5", seed=1)
    imagenet = folder / "keras" / "models" / BACKBONES["vgg16"].imagenet[0]
    imagenet.parent.mkdir(parents=True)
    toy.weights_file(imagenet, seed=1)  # as a file that somebody has got of them would hold
    type_sections([START], folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("group", TYPED)
def test_every_command_does_its_work_when_typed(group, desk: Path, tmp_path: Path, bucket, request):
    """All but those that install, which CI types. Keras finds a file where it keeps the ImageNet weights."""
    folder = shutil.copytree(desk, tmp_path / "desk")
    if any("s3://" in command.line for command in COMMANDS if (command.document, command.section) in TYPED[group]):
        bucket.fs.mkdir("bucket")
        bucket.fs.put(f"{folder}/photos/", "bucket/photos/", recursive=True)
    if group == "deployed":
        request.addfinalizer(lambda: typed(["-m", "deployments", "down"], folder, environment_of(folder)))
    type_sections(TYPED[group], folder)
    if group == "store":
        exported = json.loads((folder / "photos-npz" / "classes.json").read_text())
        assert exported["classes"] == ["cats", "dogs"]


def type_sections(sections: list[tuple[str, str]], folder: Path) -> None:
    """Type the commands of these sections one after another, each when a new image is there."""
    environment = environment_of(folder)
    chosen = [command.line for section in sections for command in COMMANDS if command[:2] == section]
    assert chosen
    for line in chosen:
        if "pip install" in line or line.endswith("--help"):
            continue
        if "--initial-epoch" not in line:  # that goes on with the same images
            number = len(list((folder / "photos" / "cats").iterdir()))
            toy.picture(folder / "photos" / "cats" / f"{number:03d}.png", 5000 + number)
        if line.startswith("tensorboard "):
            assert "train" in runs_of_tensorboard(line, folder)
            continue
        words = shlex.split(line.replace("python flows/", f"python {PROJECT}/flows/"))
        words = ["-m", *words] if words[0] == "prefect" else words[1:]
        done = typed(words, folder, environment)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def environment_of(folder: Path) -> dict[str, str]:
    """The environment of what is typed in a folder, with one free port for it."""
    port = folder / "port"
    if not port.exists():
        port.write_text(str(free_port()))
    return {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"} | {
        "PREFECT_HOME": str(folder / "prefect"),
        "KERAS_HOME": str(folder / "keras"),
        "PREFECT_SERVER_API_PORT": port.read_text(),
    }


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
