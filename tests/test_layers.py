"""Who may import whom: deployments → flows → tasks → workers → {storage, vision}, and never back."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
BELOW = {
    "storage": set(),
    "vision": set(),
    "workers": {"storage", "vision"},
    "tasks": {"workers", "storage", "vision"},
    "flows": {"tasks", "workers", "storage", "vision"},
    "deployments": {"flows", "tasks", "workers", "storage", "vision"},
}
OWNERS = {
    "prefect": {"tasks", "flows", "deployments"},
    "tensorflow": {"vision", "workers"},
    "keras": {"vision", "workers"},
    "matplotlib": {"vision", "flows"},
    "jinja2": {"vision"},
}
# Run in the command line before Prefect is loaded, or in children where it never is.
WITHOUT_PREFECT = [
    "workers.jobs.records",
    "workers.jobs.spaces",
    "workers.jobs.extract",
    "workers.jobs.train",
    "workers.jobs.head_report",
    "workers.children.child",
    "workers.runners.local",
    "workers.devices",
    "workers.jobs.size_and_rate",
    "flows.cli.command",
    "flows.registry",
    "flows.reap",
]
SOURCES = sorted(path for room in BELOW for path in (PROJECT / room).glob("**/*.py"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_room_imports_only_rooms_below_it(path):
    room = path.relative_to(PROJECT).parts[0]
    assert imported(path) & set(BELOW) <= BELOW[room] | {room}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_prefect_and_tensorflow_stay_with_their_owners(path):
    room = path.relative_to(PROJECT).parts[0]
    assert [name for name in OWNERS if name in imported(path) and room not in OWNERS[name]] == []


def test_no_flow_file_hides_a_module_that_is_imported():
    # `python flows/pipeline.py` puts flows/ first on sys.path.
    everything = set().union(*(imported(path) for path in SOURCES)) | set(sys.stdlib_module_names)
    assert {path.stem for path in (PROJECT / "flows").glob("*.py")} & everything == set()


def test_nothing_loads_prefect_or_tensorflow_before_it_is_needed():
    code = f"""
import importlib, sys
for name in {WITHOUT_PREFECT}:
    importlib.import_module(name)
print(sorted(set(sys.modules) & {{"prefect", "tensorflow", "keras", "matplotlib", "jinja2"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == "[]"


def test_the_flow_loads_no_tensorflow():
    code = (
        "import flows.pipeline, flows.batch_size_study, sys; print(sorted(set(sys.modules) & {'tensorflow', 'keras'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == "[]"


def test_an_installed_package_has_every_file_that_lies_in_it():
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in declared["packages"]:
        folder = PROJECT / package.replace(".", "/")
        patterns = declared["package-data"].get(package, [])
        others = {path for path in folder.iterdir() if path.is_file() and path.suffix not in (".py", ".pyc")}
        assert others == {path for pattern in patterns for path in folder.glob(pattern)}, package
    there = {".".join(path.parent.relative_to(PROJECT).parts) for path in SOURCES}
    assert there == set(declared["packages"])
