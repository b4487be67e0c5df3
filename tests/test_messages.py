"""Messages of the rooms name parameters as Python does, and the command lines name them as flags."""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

from flows.registry import FLOWS
from storage.cli.main import parse
from tests.test_documents import parser_of
from tests.test_layers import PROJECT

# Rooms whose functions have callers without a command line. The help texts of `storage/cli` name flags.
ROOMS = ("storage", "vision", "workers")
COMMAND = re.compile(r"`python -m storage [^`]*`|^python (-m storage|flows/predict\.py) .*|^(repair|compact) --.*")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
NAMED = re.compile(r"(?<![^\s(])`([a-z][a-z0-9_]*)(?==|`)")


def strings(file: Path) -> Iterator[str]:
    """The strings of a file that are no docstrings, with `{}` for each value in them."""
    tree = ast.parse(file.read_text())
    spoken = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            spoken |= {id(part) for part in node.values}
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spoken:
            yield node.value


def messages() -> Iterator[tuple[str, str]]:
    """(file, string) of each string of the rooms."""
    for room in ROOMS:
        for file in sorted((PROJECT / room).rglob("*.py")):
            name = str(file.relative_to(PROJECT))
            if not name.startswith("storage/cli/"):
                yield from ((name, text) for text in strings(file))


def parameters(monkeypatch) -> set[str]:
    """Every name that some command line takes as a flag."""
    found = {name for flow in FLOWS.values() for name in flow.options.model_fields}
    for action in parser_of(parse, monkeypatch)._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {each.dest for command in action.choices.values() for each in command._actions}
    return found


def test_a_message_names_only_parameters_that_exist(monkeypatch):
    named = {name for _, text in messages() for name in NAMED.findall(text)}
    assert {"images", "labels", "layout"} <= named <= parameters(monkeypatch)


def test_a_message_of_a_room_writes_no_flag_outside_of_a_whole_command():
    assert [(file, text) for file, text in messages() if FLAG.search(COMMAND.sub("", text))] == []


def test_an_advised_command_names_the_store_that_it_is_about():
    commands = [(file, text) for file, text in messages() if text.startswith(("python -m storage", "python flows"))]
    assert {file for file, _ in commands} >= {"storage/layout.py"}
    commands += [(file, found) for file, text in messages() for found in re.findall(r"`(python [^`]*)`", text)]
    assert [(file, text) for file, text in commands if "--store {}" not in text] == []
