"""The commands that only read a store: show, history, diff, export."""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

from storage.classes import index_order, names_in, only
from storage.cli import tables
from storage.cli.export import check_out, export_npz
from storage.cli.export_tables import WRITERS, Progress, TableOptions, export_tables
from storage.cli.joined_columns import findings, predictions
from storage.errors import InputError, StorageError
from storage.heads.registry import list_heads
from storage.layout import Store
from storage.manifest.diff import difference
from storage.manifest.select import chosen_spaces, chosen_version, committed_numbers, one_space, splits_of
from storage.manifest.space import read_spec
from storage.manifest.versions import Version, differing_files, read_version, version_numbers
from storage.shards.inventory import is_present
from storage.shards.shard import ShardRef
from storage.text import as_flags, count, indented, one_line, size, visible

REPORT_SECONDS = 10.0


EXPORTS = ("npz", *WRITERS)


def show(options: argparse.Namespace) -> Iterator[str]:
    """Yield the spec, a version and the heads of each chosen feature space."""
    if options.version is None:
        found = chosen_spaces(options.store, options.space)
    else:
        found = [one_space(options.store, options.space)]
    heads = list_heads(options.store)
    for index, store in enumerate(found):
        yield from ([""] if index else [])
        yield f"feature space {store.fingerprint}"
        yield from indented(tables.spec_lines(read_spec(store)))
        numbers = version_numbers(store)
        if numbers or options.version is not None:
            version = chosen_version(store, options.version)
            yield from ("", *indented(_version_lines(store, version, max(version.number, *numbers))))
        else:
            yield from ("", "  no version yet, because no run has committed one")
        own = [head for head in heads if head.fingerprint == store.fingerprint]
        yield from ("", *indented(tables.head_lines(own))) if own else ()
    faulty = [head for head in heads if head.fault]
    yield from ("", *tables.fault_lines(faulty)) if faulty else ()


def _version_lines(store: Store, version: Version, newest: int) -> list[str]:
    absent = sum(not is_present(store, ref) for ref in version.shards.values())
    read = version.read_files(store), version.read_rows(store), version.read_corrections(store)
    return tables.version_lines(version, *read, newest, absent)


def history(options: argparse.Namespace) -> Iterator[str]:
    """Yield one line per version."""
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
    yield from tables.history_lines(entries)


def _changes(store: Store, parent: Version | None, version: Version) -> dict[str, int]:
    files, before = differing_files(store, version, parent)
    return {kind: len(found) for kind, found in difference(files, before).items()}


def _added(parent: Version | None, version: Version) -> list[ShardRef]:
    known = parent.shards if parent else {}
    return [ref for name, ref in version.shards.items() if name not in known]


def diff(options: argparse.Namespace) -> Iterator[str]:
    """Yield the differences of two versions."""
    store = one_space(options.store, options.space)
    old, new = chosen_version(store, options.old), chosen_version(store, options.new)
    files, before = differing_files(store, new, old)
    yield from tables.diff_lines(old, new, before, files, difference(files, before), options.limit)
    yield from tables.corrected_lines(old, new, old.read_corrections(store), new.read_corrections(store))


def export(options: argparse.Namespace) -> Iterator[str]:
    """Export the features of a version. Yields one line with the result."""
    store = one_space(options.store, options.space)
    version = chosen_version(store, options.version)
    chosen = tuple(name.strip() for name in options.classes.split(",")) if options.classes is not None else None
    classes = index_order(chosen or names_in(version.classes), version.classes)
    splits = splits_of(version, options.split, classes)
    check_out(options.out, store)
    noun = "file" if options.format == "npz" else "image"
    num_images = sum(sum(of.values()) for split, of in only(version.classes, classes).items() if split in splits)
    done, size_bytes, last_report = 0, 0, time.monotonic()
    out = visible(os.fsencode(options.out))
    try:
        for images, new_bytes in _exported(store, version, splits, classes, options):
            done, size_bytes = done + images, size_bytes + new_bytes
            if time.monotonic() - last_report >= REPORT_SECONDS:
                last_report = time.monotonic()
                say(f"{done:,} of {count(num_images, 'image')}, {size(size_bytes)}")
    except InputError:
        raise
    except (StorageError, OSError, KeyboardInterrupt) as error:
        there = f"; {done:,} of {count(num_images, noun)} ({size(size_bytes)}) are in {out}: empty it to export again"
        text = f"{describe(error)}{there if noun == 'file' and options.out.exists() else ''}"
        raise (KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StorageError)(text) from error
    yield f"{count(done, noun)}, {size(size_bytes)}, in {out}: {', '.join(splits)}, and classes.json"


def _exported(
    store: Store, version: Version, splits: tuple[str, ...], classes: tuple[str, ...], options: argparse.Namespace
) -> Progress:
    """Write the export. Yields images and bytes of what was written. Raises InputError."""
    given = (
        ("pooling", options.pooling != "none"),
        ("predictions", options.predictions),
        ("findings", options.findings),
    )
    if options.format == "npz":
        for name, is_given in given:
            if is_given:
                raise InputError(f"--{name} needs one of the formats {', '.join(WRITERS)}")
        yield from ((1, size_bytes) for size_bytes in export_npz(store, version, splits, classes, options.out))
        return
    columns = [predictions(options.predictions)] if options.predictions else []
    columns += [findings(options.findings)] if options.findings else []
    table = TableOptions(options.pooling, tuple(columns))
    yield from export_tables(store, version, splits, classes, options.out, options.format, table)


def describe(error: BaseException) -> str:
    """Describe an error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {visible(os.fsencode(error.filename))}' if error.filename else ''}"
    text = one_line(str(error))
    return text or ("interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__)


def say(message: str) -> None:
    """Print a message to standard error, with the flags of its parameters."""
    with suppress(OSError):  # a closed stderr must not fail the command
        print(as_flags(message), file=sys.stderr, flush=True)
