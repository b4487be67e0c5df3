"""Documents agree with each other and with the command lines: links, anchors, and the tables of flags in docs/cli.md."""

import argparse
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pydantic
import pytest

from deployments.__main__ import parse as parse_up
from flows import export, reap
from flows.cli.command import parse as parse_flow
from flows.console import exit_status
from flows.options.export import ExportOptions
from flows.options.pipeline import PipelineOptions
from flows.registry import FLOWS
from serving.__main__ import parse as parse_serving
from storage import errors as storage_errors
from storage.cli.main import parse as parse_storage
from tests.test_layers import PROJECT
from vision import errors as vision_errors

DOCUMENTS = sorted(
    [
        PROJECT / "README.md",
        PROJECT / "CHANGELOG.md",
        PROJECT / "benchmarks/README.md",
        *(PROJECT / "docs").glob("*.md"),
    ]
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
HEADINGS = {
    "extract-and-train": "The pipeline",
    "batch-size-study": "The batch size study",
    "head-study": "The head study",
    "predict": "Predictions",
    "evaluate": "Evaluation",
    "inspect-data": "Inspection",
    "watch-images": "The watcher",
    "store-maintenance": "The nightly maintenance",
}


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text())


def anchors(document: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_link_leads_to_a_file_and_a_heading_that_exist(document: Path):
    for target in LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name).resolve() if name else document
        assert file.exists(), f"{document.name} → {target}"
        assert not anchor or anchor in anchors(file), f"{document.name} → {target}"


def test_every_document_is_listed_in_the_index():
    listed = {(PROJECT / "docs" / name).resolve() for name in LINK.findall((PROJECT / "docs/index.md").read_text())}
    assert set(DOCUMENTS) - {PROJECT / "docs/index.md"} <= listed


def test_a_file_that_the_architecture_names_exists():
    named = set(re.findall(r"`([\w./<>-]+\.(?:py|yaml|toml|html|md))`", (PROJECT / "docs/architecture.md").read_text()))
    assert len(named) > 30
    assert [name for name in sorted(named) if "/" in name and not (PROJECT / name).exists()] == []


def section(heading: str) -> str:
    """The text of docs/cli.md below a heading of the second level."""
    text = (PROJECT / "docs/cli.md").read_text()
    return re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], maxsplit=1, flags=re.M)[0]


def flag_rows(heading: str) -> Iterator[list[str]]:
    """The cells of each row that documents a flag."""
    for line in section(heading).splitlines():
        if line.startswith("| `--"):
            yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def documented(heading: str) -> dict[str, str]:
    """Flag → default."""
    return {cells[0].strip("`").split()[0]: cells[1].strip("`") for cells in flag_rows(heading)}


class Captured(Exception):
    """Carries a parser out of the function that made it."""


def parser_of(parse: Callable[[list[str]], object], monkeypatch) -> argparse.ArgumentParser:
    def capture(self, *arguments, **more):
        raise Captured(self)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", capture)
    with pytest.raises(Captured) as caught:
        parse([])
    return caught.value.args[0]


def defaults(parser: argparse.ArgumentParser, model: type[pydantic.BaseModel] | None = None) -> dict[str, str]:
    """Flag → default, as the documents write it."""
    found = {}
    for action in parser._actions:
        if action.option_strings and action.dest != "help":
            field = model.model_fields.get(action.dest) if model else None
            found[action.option_strings[0]] = written(field.default if field else action.default)
    return found


def written(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return "-" if default in (None, "", argparse.SUPPRESS) else str(default)


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_every_flag_of_a_flow_is_documented_with_its_default(flow, monkeypatch):
    expected = defaults(parser_of(partial(parse_flow, flow), monkeypatch), flow.options)
    expected |= {f"--{switch}": "off" for switch in flow.switches}
    assert {name.replace("_", "-") for name in flow.options.model_fields} <= {flag[2:] for flag in expected}
    assert documented(HEADINGS[flow.name]) == expected


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_the_documented_choices_of_a_flag_are_those_that_it_takes(flow, monkeypatch):
    parser = parser_of(partial(parse_flow, flow), monkeypatch)
    metavars = {action.option_strings[0]: action.metavar for action in parser._actions if action.option_strings}
    for cells in flag_rows(HEADINGS[flow.name]):
        flag, _, choices = cells[0].strip("`").partition(" ")
        has_choices = "|" in str(metavars[flag]) and metavars[flag] != "JSON|FILE"
        assert choices == (metavars[flag] if has_choices else ""), flag


def test_every_flag_of_the_storage_commands_is_documented_with_its_default(monkeypatch):
    parser = parser_of(parse_storage, monkeypatch)
    commands = next(action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    rows = [(cells[0].strip("`").split()[0], cells[1], cells[2].strip("`")) for cells in flag_rows("The store")]
    for name, command in commands.items():
        shown = {flag: default for flag, names, default in rows if names == "all" or f"`{name}`" in names}
        assert shown == defaults(command), name
        assert re.search(rf"^\| `{name}[` ]", section("The store"), re.M), name


def test_every_flag_of_up_is_one_of_the_pipeline_or_documented(monkeypatch):
    parser = parser_of(parse_up, monkeypatch)
    own = (
        defaults(parser).keys()
        - {f"--{name.replace('_', '-')}" for name in PipelineOptions.model_fields}
        - {"--config"}
    )
    assert documented("The deployments").keys() == own


def test_every_flag_of_reap_is_documented_with_its_default(monkeypatch):
    assert documented("Dead runs") == defaults(parser_of(reap.parse, monkeypatch))


def test_every_flag_of_the_server_is_documented_with_its_default(monkeypatch):
    assert documented("The server") == defaults(parser_of(parse_serving, monkeypatch))


def test_every_flag_and_choice_of_an_export_is_documented(monkeypatch):
    parser = parser_of(export.parse, monkeypatch)
    assert documented("Exports") == defaults(parser, ExportOptions)
    for cells in flag_rows("Exports"):
        flag, _, choices = cells[0].strip("`").partition(" ")
        (action,) = (one for one in parser._actions if flag in one.option_strings)
        assert choices == (action.metavar if "|" in str(action.metavar) else ""), flag


def test_every_key_of_the_json_line_is_documented():
    from dataclasses import fields

    from flows.console.outcome import Outcome

    output = section("The pipeline").partition("### Output")[2]
    assert [field.name for field in fields(Outcome) if f"`{field.name}`" not in output] == []


def test_every_exit_status_is_documented_in_both_places():
    kinds = [kind for room in (storage_errors, vision_errors, exit_status) for kind in vars(room).values()]
    statuses = {0, 1, 130, *(kind.exit_status for kind in kinds if hasattr(kind, "exit_status"))}
    assert statuses >= {2, 3, 4, 5}
    for text in ((PROJECT / "README.md").read_text(), section("The pipeline")):
        assert {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.M)} == statuses
