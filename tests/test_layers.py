"""Who may import whom: deployments → flows → tasks → workers → {storage, vision}, and inside of them folder by folder.

serving stands beside tasks: it imports workers, storage and vision.
"""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from flows.console.loggers import LOGGERS
from flows.registry import FLOWS

PROJECT = Path(__file__).parents[1]
BELOW = {
    "storage": set(),
    "vision": set(),
    "workers": {"storage", "vision"},
    "serving": {"workers", "storage", "vision"},
    "tasks": {"workers", "storage", "vision"},
    "flows": {"tasks", "workers", "storage", "vision"},
    "deployments": {"flows", "tasks", "workers", "storage", "vision"},
}
# The folders of a room that each may import; files at the root of a room are open to all of it.
FOLDERS = {
    "storage": {
        "backend": "",
        "heads": "backend",
        "shards": "backend",
        "source": "backend",
        "watching": "backend source",
        "manifest": "backend shards source",
        "planning": "backend manifest shards source",
        "reading": "backend manifest shards",
        "predictions": "backend",
        "maintenance": "backend heads manifest planning shards",
        "cli": "backend heads maintenance manifest reading shards source",
    },
    "vision": {
        "pixels": "",
        "backbones": "",
        "engines": "backbones pixels",
        "training": "backbones",
        "prediction": "training",
        "export": "backbones training",
        "report": "inspection pixels prediction training",
        "inspection": "pixels training",
        "study": "training",
    },
    "workers": {"jobs": "", "children": "jobs", "runners": "children jobs"},
    "flows": {
        "console": "",
        "steps": "console options study",
        "study": "console",
        "options": "study",
        "preflight": "console options study",
        "cli": "console options preflight",
    },
}
# Standard output and standard error belong to the command lines, and to the processes whose log they are.
PRINTING = {"storage/cli", "flows/cli", "flows/console"}
PRINTING_SCRIPTS = {
    "deployments/__main__.py",
    "deployments/keeper.py",
    "deployments/serve.py",
    "workers/children/child.py",
    "workers/picture_vectors.py",
}
OWNERS = {
    "prefect": {"tasks", "flows", "deployments"},
    "tensorflow": {"vision", "workers"},
    "keras": {"vision", "workers"},
    "matplotlib": {"vision", "flows"},
    "jinja2": {"vision"},
    "fastapi": {"serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving", "flows"},  # a run starts Prefect's server
    "prometheus_client": {"serving"},
}
# Run in the command line before Prefect is loaded, or in children where it never is.
WITHOUT_PREFECT = [
    "workers.jobs.records",
    "workers.jobs.spaces",
    "workers.jobs.extract",
    "workers.jobs.train",
    "workers.jobs.head_report",
    "workers.children.child",
    "workers.runners.running",
    "workers.devices",
    "workers.jobs.size_and_rate",
    "flows.cli.command",
    "flows.registry",
    "flows.reap",
    "flows.export",
]
LONGEST_FILE = 300
LONGEST_FUNCTION = 40
SOURCES = sorted(path for room in BELOW for path in (PROJECT / room).glob("**/*.py"))
EACH_SOURCE = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def imports_of(tree: ast.AST) -> set[str]:
    """The modules that code imports: `from storage import text` imports storage.text."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module or "" for name in inner}
    return names


IMPORTS = {module: imports_of(ast.parse(path.read_text())) for module, path in MODULES.items()}


def imported(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in IMPORTS[module_of(path)]}


def place_of(module: str) -> str:
    """The folder of a module below its room; a file at the root of a room stands for itself."""
    return ".".join(module.split(".")[:2])


@EACH_SOURCE
def test_a_room_imports_only_rooms_below_it(path):
    room = path.relative_to(PROJECT).parts[0]
    assert imported(path) & set(BELOW) <= BELOW[room] | {room}


@EACH_SOURCE
def test_prefect_and_tensorflow_stay_with_their_owners(path):
    room = path.relative_to(PROJECT).parts[0]
    assert [name for name in OWNERS if name in imported(path) and room not in OWNERS[name]] == []


@EACH_SOURCE
def test_a_folder_imports_only_folders_that_it_may(path):
    room, *below = path.relative_to(PROJECT).parts
    if room not in FOLDERS or len(below) < 2:
        return
    allowed = {below[0], *FOLDERS[room][below[0]].split()}
    places = {place_of(name).partition(".") for name in IMPORTS[module_of(path)]}
    assert {folder for of, _, folder in places if of == room and (PROJECT / room / folder).is_dir()} <= allowed


def test_no_file_imports_itself_through_others():
    tuple(TopologicalSorter({name: found & set(MODULES) for name, found in IMPORTS.items()}).static_order())


def test_no_folder_of_a_room_imports_itself_through_others():
    graph: dict[str, set[str]] = {}
    for module, found in IMPORTS.items():
        here = place_of(module)
        graph.setdefault(here, set()).update({place_of(name) for name in found & set(MODULES)} - {here})
    tuple(TopologicalSorter(graph).static_order())


@EACH_SOURCE
def test_a_file_and_its_functions_are_short_enough_to_be_read_at_once(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [of.name for of in functions if (of.end_lineno or 0) - of.lineno >= LONGEST_FUNCTION] == []


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_a_flow_file_imports_the_command_line_as_a_script_alone(flow):
    tree = ast.parse((PROJECT / flow.path).read_text())
    body = [node for node in tree.body if not isinstance(node, ast.If)]
    assert not [name for name in imports_of(ast.Module(body, [])) if place_of(name) in ("flows.cli", "flows.registry")]


def test_flow_files_alone_import_late():
    """The linter's pattern for them also spans the folders of flows/, where this test takes its place."""
    for path in (PROJECT / "flows").glob("*/*.py"):
        body = ast.parse(path.read_text()).body
        found = [index for index, node in enumerate(body) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not found or found == list(range(found[0], found[-1] + 1)), path


@EACH_SOURCE
def test_only_command_lines_print(path):
    name = str(path.relative_to(PROJECT))
    if str(Path(name).parent) in PRINTING or name in PRINTING_SCRIPTS:
        return
    used = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.expr)}
    assert used & {"print", "sys.stdout", "sys.stderr"} == set()


def test_the_log_of_every_room_is_part_of_a_runs():
    logging = {module.partition(".")[0] for module, found in IMPORTS.items() if "logging" in found}
    assert logging - {"flows", "deployments", "serving"} == set(LOGGERS)  # those log by Prefect, or by themselves


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


def test_the_server_loads_no_engine():
    code = "import serving.__main__, sys; print(sorted(set(sys.modules) & {'prefect', 'tensorflow', 'keras', 'MNN'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert done.stdout.strip() == "[]"


def test_an_installed_package_has_every_file_that_lies_in_it():
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for package in declared["packages"]:
        folder = PROJECT / package.replace(".", "/")
        patterns = declared["package-data"].get(package, [])
        folders = {folder, *((folder / pattern).parent for pattern in patterns)}
        inside = [path for each in folders for path in each.iterdir() if path.is_file()]
        others = {path for path in inside if path.suffix not in (".py", ".pyc")}
        assert others == {path for pattern in patterns for path in folder.glob(pattern)}, package
    there = {".".join(path.parent.relative_to(PROJECT).parts) for path in SOURCES}
    assert there == set(declared["packages"])
