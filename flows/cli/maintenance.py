"""The command line of `store-maintenance`: a store that is not there is told of before Prefect is imported."""

import time
from dataclasses import asdict
from typing import Any

from flows.cli.command import finish
from flows.cli.launch import start_prefect
from flows.cli.parser import options_parser, read_options
from flows.options.maintenance import MaintenanceOptions
from storage.backend.lock import hold
from storage.backend.paths import place
from storage.manifest.select import chosen_spaces


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return finish(lambda given, began: run(parse(given), began), arguments)


def parse(arguments: list[str]) -> MaintenanceOptions:
    """Options from flags, over those of --config, over the defaults. Raises InputError."""
    parser, _ = options_parser(
        MaintenanceOptions,
        prog="python flows/store_maintenance.py",
        usage="%(prog)s [--store STORE] [--keep N] [options]",
        description="Verify a store, merge its small shards, and remove what its newest versions do not need.",
        epilog="Exit status: 0 done, 1 a damaged store or a failure, 2 bad arguments or input, 5 store busy, "
        "130 interrupted. The last line on standard output is one JSON object.",
    )
    return read_options(MaintenanceOptions, vars(parser.parse_args(arguments)))


def run(options: MaintenanceOptions, began: float) -> dict[str, Any]:
    """Take the steps, and return the JSON record."""
    found = chosen_spaces(place(options.store), options.space)
    with hold(found[0].root, options.wait):
        pass  # busy is better known now than after a server has started
    start_prefect(found[0])
    from flows.store_maintenance import store_maintenance

    maintained = store_maintenance(**options.model_dump())
    return {**asdict(maintained), "elapsed_seconds": round(time.monotonic() - began, 4)}
