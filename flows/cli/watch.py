"""The command line of `watch-images`. It needs a Prefect server that others talk to as well: an event of its own is heard by nobody."""

import time
from dataclasses import asdict
from typing import Any

from flows.cli.command import finish
from flows.cli.launch import set_environment
from flows.cli.parser import options_parser, read_options
from flows.cli.prefect_server import check_configured
from flows.options.watch import WatchOptions


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return finish(lambda given, began: run(parse(given), began), arguments)


def parse(arguments: list[str]) -> WatchOptions:
    """Options from flags, over those of --config, over the defaults. Raises InputError."""
    parser, _ = options_parser(
        WatchOptions,
        prog="python flows/watch_images.py",
        usage="%(prog)s --images FOLDER [--store STORE] [options]",
        description="Watch a folder of images, and emit the event images.arrived to the Prefect server of PREFECT_API_URL "
        "each time the folder has changed and come to rest.",
        epilog="Exit status: 0 done, 1 failure, 2 bad arguments or input, 130 interrupted. "
        "The last line on standard output is one JSON object.",
    )
    return read_options(WatchOptions, vars(parser.parse_args(arguments)))


def run(options: WatchOptions, began: float) -> dict[str, Any]:
    """Watch, and return the JSON record."""
    options.look()  # what cannot be listed is better known now
    set_environment()
    check_configured("events go to a Prefect server that runs on")
    from flows.watch_images import watch_images

    try:
        watched = watch_images(**options.model_dump())
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("interrupted; what arrives meanwhile is announced by the next watcher") from error
    return {**asdict(watched), "elapsed_seconds": round(time.monotonic() - began, 4)}
