"""What the README and the documents tell people to type is taken; tests/flows/test_typed.py types it."""

import re
import shlex
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from deployments.__main__ import parse as parse_up
from flows import export, reap
from flows.cli.command import parse
from flows.registry import FLOWS
from serving.__main__ import parse as parse_serving
from storage.cli.main import parse as parse_storage
from tests.test_layers import PROJECT


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
    "flows/export.py": export.parse,
    "-m serving": parse_serving,
    "-m deployments up": parse_up,
}
START = ("README.md", "Your images")
# What tests/flows/test_typed.py types once that is done, in an order in which each command finds what it needs.
TYPED = {
    "images": [
        ("docs/folders.md", "Tables of labels"),
        ("docs/cli.md", "The pipeline"),
        ("README.md", "See how good the head is"),
        ("README.md", "Label new images"),
    ],
    "training": [
        ("README.md", "Train differently"),
        ("docs/augmentation.md", "Three ways to train on them"),
        ("docs/training.md", "How it reads the data"),
    ],
    "store": [
        START,
        ("docs/store.md", "Inspect a store"),
        ("docs/store.md", "Export features"),
        ("docs/store.md", "Maintain a store"),
        ("docs/cli.md", "The nightly maintenance"),
        ("docs/store.md", "Object stores"),
    ],
}
# What tests/deployments/test_keeper.py types, with the paths and settings of its own installation.
DEPLOYED = ("README.md", "Keep it running")
STOOD_UP = [
    "python -m deployments up",
    "prefect deployment run extract-and-train --watch",
    "python -m deployments down",
]


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
    words = [word for word in shlex.split(line) if not re.fullmatch(r"\w+=.*", word)]
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
    sections = {START, DEPLOYED, *(section for group in TYPED.values() for section in group)}
    lines = {command.line for command in COMMANDS if command[:2] in sections}
    assert [line for line in README if line not in lines and "pip install" not in line] == []


def test_the_commands_that_deploy_are_those_that_stand_up_the_installation_of_the_tests():
    lines = [command.line.partition(" --images ")[0] for command in COMMANDS if command[:2] == DEPLOYED]
    assert lines == STOOD_UP
