"""`python -m storage`: see what a store holds, take features out of it, and keep it in order."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from storage import report
from storage.bounds import at_least
from storage.choice import chosen_spaces, chosen_version, committed_numbers, one_space
from storage.classes import index_order, names_in, only
from storage.diff import difference
from storage.errors import InputError, StorageError, StoreBusy
from storage.export import SPLITS, check_out, export_npz, splits_of
from storage.heads import list_heads
from storage.layout import Store, read_spec
from storage.place import place
from storage.shards import ShardRef, is_present
from storage.upkeep.commands import add_commands
from storage.versions import Version, differing_files, read_version, version_numbers
from storage.words import count, indented, size, visible

REPORT_SECONDS = 10.0
STATUS = {KeyboardInterrupt: 130, InputError: 2, StoreBusy: 5}
EXPORTS = {"npz": export_npz}


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
        _say(f"error: {_describe(error)}")
        status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 1)
    _release_output()
    return status


def _release_output() -> None:
    """Give up what cannot be written, or Python tries again at its end, and complains."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags of a subcommand, with the function that does it as `run`. Raises InputError."""
    parser = _Parser(
        prog="python -m storage",
        description="See what a store holds, take features out of it, and keep it in order.",
        epilog="Exit status: 0 done, 1 a damaged store or a failure of the machine, 2 bad arguments, 5 store busy, "
        "130 interrupted.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(
        metavar="show|history|diff|export|verify|repair|compact|gc|quarantine|promote", required=True
    )
    common = _Parser(add_help=False)
    common.add_argument("--store", metavar="FOLDER", type=place, default="./store", help="the store (./store)")
    common.add_argument("--space", metavar="PREFIX", default="", help="first digits of a feature space's fingerprint")

    def add(name: str, run: Callable[[argparse.Namespace], Iterator[str]], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[common], help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run)
        return command

    show = add("show", _show, "what each feature space holds: images, shards, unusable files, heads")
    show.add_argument("--version", metavar="N", type=int, help="an older version")
    add("history", _history, "one line a version: counts, and what changed since its parent")
    diff = add("diff", _diff, "what changed from one version to another, image by image")
    diff.add_argument("old", metavar="V1", type=int)
    diff.add_argument("new", metavar="V2", type=int)
    diff.add_argument(
        "--limit", metavar="N", type=at_least(0, int), default=50, help="at most N images, 0 for all (50)"
    )
    export = add("export", _export, "write features and labels as files for other programs")
    export.add_argument("--format", choices=EXPORTS, default="npz", help="npz: FOLDER/<split>/<i>_<label>.npz (npz)")
    export.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="a folder that is new or empty")
    export.add_argument("--split", choices=(*SPLITS, "all"), default="all", help="what to export (all)")
    export.add_argument(
        "--classes",
        metavar="A,B",
        help="index order of the labels; images of other classes are left out (sorted names)",
    )
    export.add_argument("--version", metavar="N", type=int, help="an older version")
    add_commands(add)
    return parser.parse_args(arguments)


def _show(options: argparse.Namespace) -> Iterator[str]:
    if options.version is None:
        found = chosen_spaces(options.store, options.space)
    else:
        found = [one_space(options.store, options.space)]
    heads = list_heads(options.store)
    for index, store in enumerate(found):
        yield from ([""] if index else [])
        yield f"feature space {store.fingerprint}"
        yield from indented(report.spec_lines(read_spec(store)))
        numbers = version_numbers(store)
        if numbers or options.version is not None:
            version = chosen_version(store, options.version)
            yield from ("", *indented(_version_lines(store, version, max(version.number, *numbers))))
        else:
            yield from ("", "  no version yet: no run has come to its commit")
        own = [head for head in heads if head.fingerprint == store.fingerprint]
        yield from ("", *indented(report.head_lines(own))) if own else ()
    faulty = [head for head in heads if head.fault]
    yield from ("", *report.fault_lines(faulty)) if faulty else ()


def _version_lines(store: Store, version: Version, newest: int) -> list[str]:
    absent = sum(not is_present(store, ref) for ref in version.shards.values())
    return report.version_lines(version, version.read_files(store), version.read_rows(store), newest, absent)


def _history(options: argparse.Namespace) -> Iterator[str]:
    store = one_space(options.store, options.space)
    entries: list[tuple] = []
    parent: Version | None = None
    for number in committed_numbers(store):
        version = read_version(store, number)
        if version.parent and (parent is None or parent.number != version.parent):
            entries.append((version, None, []))
        else:
            entries.append((version, _changes(store, parent, version), _added(parent, version)))
        parent = version
    yield from report.history_lines(entries)


def _changes(store: Store, parent: Version | None, version: Version) -> dict[str, int]:
    files, before = differing_files(store, version, parent)
    return {word: len(found) for word, found in difference(files, before).items()}


def _added(parent: Version | None, version: Version) -> list[ShardRef]:
    known = parent.shards if parent else {}
    return [ref for name, ref in version.shards.items() if name not in known]


def _diff(options: argparse.Namespace) -> Iterator[str]:
    store = one_space(options.store, options.space)
    old, new = chosen_version(store, options.old), chosen_version(store, options.new)
    files, before = differing_files(store, new, old)
    yield from report.diff_lines(old, new, before, files, difference(files, before), options.limit)


def _export(options: argparse.Namespace) -> Iterator[str]:
    store = one_space(options.store, options.space)
    version = chosen_version(store, options.version)
    wanted = tuple(name.strip() for name in options.classes.split(",")) if options.classes is not None else None
    classes = index_order(wanted or names_in(version.classes), version.classes)
    splits = splits_of(version, options.split, classes)
    check_out(options.out, store)
    num_images = sum(sum(of.values()) for split, of in only(version.classes, classes).items() if split in splits)
    num_files, size_bytes, told = 0, 0, time.monotonic()
    out = visible(os.fsencode(options.out))
    try:
        for file_bytes in EXPORTS[options.format](store, version, splits, classes, options.out):
            num_files, size_bytes = num_files + 1, size_bytes + file_bytes
            if time.monotonic() - told >= REPORT_SECONDS:
                told = time.monotonic()
                _say(f"{num_files:,} of {count(num_images, 'image')}, {size(size_bytes)}")
    except (StorageError, OSError, KeyboardInterrupt) as error:
        there = f"; {num_files:,} of {count(num_images, 'file')} ({size(size_bytes)}) are in {out}: empty it to export again"
        text = f"{_describe(error)}{there if options.out.exists() else ''}"
        raise (KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StorageError)(text) from error
    yield f"{count(num_files, 'file')}, {size(size_bytes)}, in {out}: {', '.join(splits)}, and classes.json"


def _describe(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {visible(os.fsencode(error.filename))}' if error.filename else ''}"
    text = visible(" ".join(str(error).split()))
    return text or ("interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__)


def _say(message: str) -> None:
    with suppress(OSError):  # nobody has to listen
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
