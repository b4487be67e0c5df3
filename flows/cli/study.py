"""The command line of `batch-size-study`: nothing to train is found out before Prefect is imported."""

import time
from typing import Any

from flows.cli.command import finish
from flows.cli.launch import start_prefect
from flows.cli.parser import options_parser, read_options
from flows.console.messages import say
from flows.options.study import StudyOptions
from flows.study.report import report
from storage.backend.atomic import make_folder
from storage.backend.lock import hold


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return finish(lambda given, began: run(parse(given), began), arguments)


def parse(arguments: list[str]) -> StudyOptions:
    """Options from flags, over those of --config, over the defaults. Raises InputError."""
    parser, _ = options_parser(
        StudyOptions,
        prog="python flows/batch_size_study.py",
        usage="%(prog)s [--store STORE] [--batch-sizes 8,32,128] [--seeds 0,1,2] [options]",
        description="Train heads with several batch sizes on one version of a store, and compare them. "
        "Existing heads are not trained again, and none of them becomes the current head.",
        epilog="Exit status: 0 done, 1 failure, 2 bad arguments or input, 5 store busy, 130 interrupted. "
        "The last line on standard output is one JSON object.",
    )
    return read_options(StudyOptions, vars(parser.parse_args(arguments)))


def run(options: StudyOptions, began: float) -> dict[str, Any]:
    """Train what is missing, report, and return the JSON record."""
    study = options.study()
    make_folder(options.folder)
    if study.missing():
        with hold(study.space.store.root, options.wait):
            pass  # busy is better known now than after a server has started
        start_prefect(study.space.store)
        from flows.batch_size_study import batch_size_study

        try:
            outcome = batch_size_study(**options.model_dump())
        except KeyboardInterrupt as error:
            kept = "finished trainings are kept, and the next study goes on from them"
            raise KeyboardInterrupt(f"interrupted; {kept}") from error
    else:
        say(f"nothing to train: all {len(study.jobs)} heads are there")
        outcome, text = report(study, options.folder)
        say(text)
    return outcome.line(time.monotonic() - began)
