"""`python -m deployments up` starts a server, a worker and a watcher on this machine; `down` stops them."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from deployments.installation import Home, default_home, down, origin, up
from deployments.keeper import run_keeper
from deployments.parameters import own_places
from flows.cli.command import finish
from flows.cli.parser import options_parser, read_options
from flows.console.messages import say
from flows.options import demo
from flows.options.pipeline import PipelineOptions
from storage.cli.bounds import between
from storage.errors import InputError
from storage.text import count

PLACES = ("images", "store", "labels", "exclude", "relabel", "weights", "inbox", "predictions")
OVERRIDING = (
    "PREFECT_API_URL",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_PROFILE",
)  # these override the profile that `up` makes
USAGE = "usage: python -m deployments up [--images FOLDER --store STORE] [--port N] [options of the pipeline] | down"


def main() -> int:
    """Run the command and return its exit status."""
    command, *rest = sys.argv[1:] or ["--help"]
    if command == "keep":
        return run_keeper(Home(Path(rest[0])))
    if command in ("-h", "--help"):
        print(USAGE)
        return 0
    return finish(lambda arguments, _: {"up": stand_up, "down": take_down}.get(command, _unknown)(arguments), rest)


def stand_up(arguments: list[str]) -> dict[str, Any]:
    """Run `up`: start everything, activate the profile, and return the JSON record. Raises InputError, CannotStart."""
    parameters, port = parse(arguments)
    if "images" not in parameters:
        parameters = _demo() | parameters
    from deployments.profile import use_profile
    from deployments.settings import client_settings

    home = default_home()
    say("starting a server, a worker and a watcher, which takes a minute the first time")
    try:
        state = up(home, parameters, port)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted; everything that had started is stopped") from error
    if parameters.get("outside_links"):
        say("--outside-links: links may lead anywhere, so runs may read images from any folder of this machine")
    use_profile(
        client_settings(origin(port), home.password())
        | {"PREFECT_PLUGINS_ENABLED": "true", "PREFECT_PLUGINS_ALLOW": "extract-and-train"},
        home.path / "profile-before",
    )
    say(f"up: {origin(port)} (password: {home.path}/password), watching {parameters['images']}; logs: {home.logs}")
    if "inbox" in parameters:
        say(
            f"predicting what arrives in {parameters['inbox']}: {parameters.get('predictions') or own_places(home.path)['predictions']}"
        )
    say(f"start a run: {call('prefect')} deployment run extract-and-train --watch")
    say(f"stop everything: {call('python')} -m deployments down")
    return {"url": origin(port), "home": str(home.path), "keeper": state["keeper"]}


def parse(arguments: list[str]) -> tuple[dict[str, Any], int]:
    """Return the given parameters, with absolute paths, and the port. Raises InputError."""
    parser, running = options_parser(
        PipelineOptions,
        prog="python -m deployments up",
        usage="%(prog)s [--images FOLDER] [--store STORE] [--port N] [options]",
        description="Start a Prefect server, a worker, the deployments and a watcher on this machine. Options of the pipeline become "
        "parameters of its deployment. Without --images it deploys the demo.",
        epilog="Exit status: 0 up, 1 failure, 2 bad arguments or up already. The last line on standard output is one JSON object.",
    )
    running.add_argument(
        "--port",
        type=between(1, 65535, int),
        metavar="N",
        help="port of the server, which listens on this machine only (4200)",
    )
    running.add_argument(
        "--inbox", metavar="FOLDER", help="folder to watch for images to predict, each time some arrive"
    )
    running.add_argument(
        "--predictions", metavar="FILE", help="file of their predictions, which ends in .csv, .jsonl or .parquet"
    )
    given = vars(parser.parse_args(arguments))
    port = given.pop("port", None) or _default_port()
    predicting = {name: given.pop(name) for name in ("inbox", "predictions") if name in given}
    if "predictions" in predicting and "inbox" not in predicting:
        raise InputError("--predictions: the folder of images to predict is missing; name it as --inbox")
    options = read_options(PipelineOptions, given)
    if options.images is None and options.model_fields_set & demo.MEANT_FOR_OTHERS:
        raise InputError("--images: the folder of images is missing")
    named = options.model_fields_set | ({"store"} if options.images else set())
    parameters = json.loads(options.model_dump_json(include=named)) | predicting
    return parameters | {name: _absolute(parameters[name]) for name in PLACES if parameters.get(name)}, port


def _default_port() -> int:
    """Prefect's own port: its setting, or its default 4200. Raises InputError."""
    text = os.environ.get("PREFECT_SERVER_API_PORT") or "4200"
    if not text.isdecimal():
        raise InputError(
            f"PREFECT_SERVER_API_PORT is {text!r}, which is not a port; `unset PREFECT_SERVER_API_PORT`, or pass --port"
        )
    return int(text)


def call(program: str) -> str:
    """The command line that calls `prefect` or `python` of this environment from the user's shell."""
    before = " ".join(name for name in OVERRIDING if program == "prefect" and os.environ.get(name))
    found = shutil.which(program)
    if found is None or Path(found).parent != Path(sys.executable).parent:
        program = shlex.quote(sys.executable) + (" -m prefect" if program == "prefect" else "")
    return f"unset {before}; {program}" if before else program


def _absolute(address: str) -> str:
    return address if "://" in address or address in ("imagenet", "random") else os.path.abspath(address)


def _demo() -> dict[str, Any]:
    parameters = {name: _absolute(value) if name in PLACES else value for name, value in demo.DEFAULTS.items()}
    demo.write_digits(Path(parameters["images"]))
    say(
        "demo: scanned digits, and weights that are random, not trained; for your own images: --images FOLDER --store STORE"
    )
    return parameters


def take_down(arguments: list[str]) -> dict[str, Any]:
    """Run `down`: end every process of the installation, and return the JSON record."""
    if arguments:
        raise InputError(f"down takes no arguments, got {' '.join(arguments)}")
    home = default_home()
    number = down(home)
    say(f"down: {count(number, 'process', 'processes')} ended" if number else "down: nothing was up")
    return {"ended": number, "home": str(home.path)}


def _unknown(arguments: list[str]) -> dict[str, Any]:
    raise InputError(f"unknown command; {USAGE}")


if __name__ == "__main__":
    raise SystemExit(main())
