"""Parse `python -m storage` and run its command."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from storage.backend.paths import place
from storage.cli import commands
from storage.cli.bounds import at_least
from storage.cli.export_tables import POOLINGS
from storage.cli.maintenance import Add, add_commands
from storage.cli.similar import similar
from storage.errors import InputError, StorageError
from storage.source.splits import SPLITS


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; see --help")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # a closed one is None
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    status = 0
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        for line in options.run(options):
            print(line)
        print(end="", flush=True)
    except SystemExit as finished:  # --help
        status = int(finished.code or 0)
    except BrokenPipeError:
        pass  # whoever read has seen enough
    except (StorageError, OSError, KeyboardInterrupt) as error:
        commands.say(f"error: {commands.describe(error)}")
        status = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_status", 1)
    _release_output()
    return status


def _release_output() -> None:
    """Discard unwritten output; otherwise Python writes it again at exit and complains."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags of a subcommand, with the function that does it as `run`. Raises InputError."""
    parser = _Parser(
        prog="python -m storage",
        description="Inspect a store, export features from it, and maintain it.",
        epilog="Exit status: 0 done, 1 a damaged store or a failure of the machine, 2 bad arguments, 5 store busy, "
        "130 interrupted.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(
        metavar="show|history|diff|similar|export|verify|repair|compact|gc|quarantine|promote", required=True
    )
    common = _common()

    def add(name: str, run: Callable[[argparse.Namespace], Iterator[str]], text: str) -> argparse.ArgumentParser:
        command = subparsers.add_parser(name, parents=[common], help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run)
        return command

    _add_inspection(add)
    _add_similar(add)
    _add_export(add)
    add_commands(add)
    return parser.parse_args(arguments)


def _common() -> _Parser:
    """The flags of every subcommand."""
    common = _Parser(add_help=False)
    common.add_argument("--store", metavar="FOLDER", type=place, default="./store", help="the store (./store)")
    common.add_argument(
        "--space",
        metavar="PREFIX",
        default="",
        help="first digits of a feature space's fingerprint, if the store has several",
    )
    return common


def _add_inspection(add: Add) -> None:
    show = add("show", commands.show, "what each feature space holds: images, shards, unusable files, heads")
    show.add_argument("--version", metavar="N", type=int, help="an older version")
    add("history", commands.history, "one line per version: counts, and what changed since its parent")
    diff = add("diff", commands.diff, "what changed between two versions, image by image")
    diff.add_argument("old", metavar="V1", type=int)
    diff.add_argument("new", metavar="V2", type=int)
    diff.add_argument(
        "--limit", metavar="N", type=at_least(0, int), default=50, help="at most N images, 0 for all (50)"
    )


def _add_similar(add: Add) -> None:
    command = add("similar", similar, "list the images that look most like a picture, by the cosine of pooled features")
    command.add_argument("image", metavar="IMAGE", help="path of an image in the store, or a file")
    command.add_argument("--top", metavar="N", type=at_least(1, int), default=9, help="number of images (9)")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--version", metavar="N", type=int, help="an older version")


def _add_export(add: Add) -> None:
    export = add("export", commands.export, "write features and labels as files for other programs")
    export.add_argument(
        "--format",
        choices=commands.EXPORTS,
        default="npz",
        help="npz: a file an image; arrow, hf (Parquet for datasets, pandas, ...), npy: tables (npz)",
    )
    export.add_argument("--pooling", choices=POOLINGS, default="none", help="pool feature maps, except for npz (none)")
    for name in ("predictions", "findings"):
        text = f"file of {name} by path, for columns of the table"
        export.add_argument(f"--{name}", metavar="FILE", type=Path, help=text)
    export.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="new or empty folder")
    export.add_argument("--split", choices=(*SPLITS, "all"), default="all", help="split to export (all)")
    export.add_argument(
        "--classes",
        metavar="A,B",
        help="index order of the labels; images of other classes are left out (sorted names)",
    )
    export.add_argument("--version", metavar="N", type=int, help="an older version")
