"""Command-line flags and YAML files of parameters: built from a pydantic model, and read into it."""

import argparse
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pydantic
import yaml

from flows.options.augment import Augment
from flows.options.flat import Options, checked
from storage.backend.paths import at_home
from storage.errors import InputError


class OneLineParser(argparse.ArgumentParser):
    """Raises InputError with one line, where argparse would print the usage and exit."""

    def error(self, message: str):
        raise InputError(f"{message}; see --help")


def options_parser(model: type[pydantic.BaseModel], **texts: str) -> tuple[argparse.ArgumentParser, Any]:
    """Return a parser with --config and a flag for each field of the model, and its argument group `running`."""
    parser = OneLineParser(**texts, allow_abbrev=False, argument_default=argparse.SUPPRESS)  # type: ignore[arg-type]
    groups: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        title = field.title or "options"
        group = groups.setdefault(title, parser.add_argument_group(title))
        default = "" if field.default in (None, "") or field.annotation is bool else f" ({_as_typed(field.default)})"
        settings: dict[str, Any] = {"help": f"{field.description}{default}".replace("%", "%%")}
        if field.annotation is bool:
            settings["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
        else:
            settings["metavar"] = _metavar(field.annotation)
        group.add_argument(f"--{name.replace('_', '-')}", **settings)
    running = groups["running"]
    running.add_argument("--config", metavar="FILE.yaml", help="read parameters from a YAML file; flags override it")
    return parser, running


def _as_typed(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _metavar(annotation: Any) -> str:
    """The text behind a flag in --help: the choices, or the kind of value."""
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    if get_origin(annotation) is tuple:
        kind = get_args(annotation)[0]
        return ",".join(get_args(kind)) if get_origin(kind) is Literal else "N,N"
    kind = (get_args(annotation) or (annotation,))[0]
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return {int: "N", float: "X", str: "TEXT", Augment: "JSON|FILE"}.get(kind, "A,B")


def read_options(model: type[Options], given: dict[str, Any]) -> Options:
    """Read the options of a model: flags override the file `config`, which overrides defaults. Raises InputError."""
    given = dict(given)
    config = _read_config(given.pop("config", None))
    return checked(model, config | given)


def _read_config(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        text = Path(at_home(path)).read_text()
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config: {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"--config: {path} should hold 'name: value' lines")
    return {str(key).replace("-", "_"): value for key, value in content.items()} | _listed_classes(text)


def _listed_classes(text: str) -> dict[str, list[str]]:
    """The list of class names as typed, since YAML reads `010`, `yes` and `1.0` as numbers or booleans."""
    for key, value in yaml.compose(text, yaml.SafeLoader).value:
        is_list = isinstance(value, yaml.SequenceNode) and all(
            isinstance(name, yaml.ScalarNode) for name in value.value
        )
        if key.value == "classes" and is_list:
            return {"classes": [name.value for name in value.value]}
    return {}
