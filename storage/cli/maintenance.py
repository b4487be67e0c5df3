"""The commands that check or change a store: verify, repair, compact, gc, quarantine, promote."""

import argparse
import os
from collections.abc import Callable, Iterator
from itertools import chain

from storage.cli.bounds import at_least, between
from storage.errors import StoreDamaged
from storage.heads.current import current_head
from storage.heads.registry import make_current
from storage.maintenance.collect import GRACE_HOURS, collect
from storage.maintenance.compact import ROWS_A_SHARD, CompactOptions, compact
from storage.maintenance.quarantine import quarantined, release, without_variants
from storage.maintenance.repair import repair_heads, repair_space
from storage.maintenance.target import Target
from storage.maintenance.verify import verify_heads, verify_space
from storage.manifest.select import chosen_version, one_space
from storage.manifest.versions import latest_version, version_numbers
from storage.reasons import MEANINGS
from storage.shards.shard import MAX_ROWS
from storage.text import columns, count, date_of, ranges, size, visible

Add = Callable[..., argparse.ArgumentParser]


def add_commands(add: Add) -> None:
    """The subcommands. `add` makes one from its name, the function that runs it, and a line of help."""
    _add_verify(add)
    changing = [_add_repair(add), _add_compact(add), _add_gc(add), _add_quarantine(add), _add_promote(add)]
    for command in changing:
        command.add_argument(
            "--wait",
            metavar="SECONDS",
            type=at_least(0, float),
            default=0.0,
            help="seconds to wait for another run on the store (0)",
        )


def _add_verify(add: Add) -> None:
    command = add("verify", lambda given: verify(_target(given), given.deep), "check every file of the store")
    _add_deep(command)


def _add_repair(add: Add) -> argparse.ArgumentParser:
    command = add(
        "repair",
        lambda given: repair(_target(given), given.deep),
        "commit what is left after files were lost or damaged; the next run extracts the rest",
    )
    return _add_deep(command)


def _add_deep(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--deep", action="store_true", help="read every byte of every shard and head")
    return command


def _add_compact(add: Add) -> argparse.ArgumentParser:
    command = add(
        "compact",
        lambda given: compaction(_target(given), _compaction(given)),
        "merge small shards, and drop rows that no image uses",
    )
    rows = between(1, MAX_ROWS, int)
    command.add_argument("--rows", metavar="N", type=rows, default=ROWS_A_SHARD, help="rows of a full shard (256)")
    command.add_argument(
        "--dead-fraction",
        metavar="F",
        type=between(0, 1, float),
        default=0.0,
        help="rewrite a full shard when this share of its rows is unused (0: when one row is)",
    )
    command.add_argument("--drop-variants", action="store_true", help="drop the augmented variants of all images")
    return command


def _add_gc(add: Add) -> argparse.ArgumentParser:
    command = add(
        "gc", lambda given: gc(_target(given), given.keep, given.grace), "remove what the newest versions do not need"
    )
    command.add_argument("--keep", metavar="N", type=at_least(1, int), required=True, help="number of versions to keep")
    command.add_argument(
        "--grace",
        metavar="HOURS",
        type=at_least(0, float),
        default=GRACE_HOURS,
        help="keep what was written or used within the last HOURS (24)",
    )
    return command


def _add_quarantine(add: Add) -> argparse.ArgumentParser:
    command = add(
        "quarantine",
        lambda given: quarantine(_target(given), given.retry),
        "list unusable images, with reason, attempts and times",
    )
    command.add_argument("--retry", action="store_true", help="try them again in the next run")
    return command


def _add_promote(add: Add) -> argparse.ArgumentParser:
    command = add(
        "promote", lambda given: promote(_target(given), given.head), "make a head current without comparing it"
    )
    command.add_argument("head", metavar="HEAD", help="name of the head, as `show` prints it")
    return command


def _target(given: argparse.Namespace) -> Target:
    return Target(given.store, given.space, getattr(given, "wait", 0.0))  # who only reads waits for nobody


def _compaction(given: argparse.Namespace) -> CompactOptions:
    return CompactOptions(given.rows, given.dead_fraction, given.drop_variants)


def verify(target: Target, is_deep: bool) -> Iterator[str]:
    """Yield one line per fault, or one line that there is none. Raises StoreDamaged after the last fault."""
    found = target.stores()
    faults, lie_deep = 0, False
    spaces = (verify_space(store, is_deep) for store in found)
    for finding in chain(*spaces, verify_heads(found[0], is_deep)):
        faults, lie_deep = faults + 1, lie_deep or finding.is_deep
        yield f"{visible(os.fsencode(finding.file))}: {visible(finding.fault)}"
    if faults:  # what was found by less is mended by less: on a large store every byte takes its time
        way_out = found[0].deep_way_out if lie_deep else found[0].way_out
        raise StoreDamaged(f"{count(faults, 'fault')} found; {way_out}")
    versions = sum(len(version_numbers(store)) for store in found)
    depth = "every byte" if is_deep else "segments whole, shards by footer and digests"
    yield f"no faults: {count(versions, 'version')} in {count(len(found), 'feature space')} ({depth})"


def repair(target: Target, is_deep: bool) -> Iterator[str]:
    """Repair each feature space and the heads. Yields what was lost."""
    with target.held() as found:
        for store in found:
            done = repair_space(store, is_deep)
            words = [f"committed version {done.version}" if done.version else "the newest version is intact"]
            words += [f"{count(done.lost_rows, 'image')} to extract again"] if done.lost_rows else []
            words += [f"{count(done.lost_variants, 'variant')} lost"] if done.lost_variants else []
            words += [f"{count(done.unlisted, 'image')} for the next run to list again"] if done.unlisted else []
            words += [f"dropped version {ranges(done.dropped)}"] if done.dropped else []
            yield f"feature space {store.fingerprint}: {', '.join(words)}"
        heads, pins = repair_heads(found[0], is_deep)
        if heads:
            yield f"discarded {count(heads, 'damaged head')}"
        if pins:
            yield f"removed {count(pins, 'damaged pin')}: gc may remove the version that its training reads"


def compaction(target: Target, options: CompactOptions) -> Iterator[str]:
    """Compact each feature space. Yields one line for each."""
    with target.held() as found:
        for store in found:
            version = latest_version(store)
            done = compact(store, version, options) if version else None
            if done is None:
                yield f"feature space {store.fingerprint}: nothing to compact"
            else:
                dead = f", {count(done.dead_rows, 'dead row')} dropped" if done.dead_rows else ""
                dead += f", {count(done.variants, 'variant')} dropped" if done.variants else ""
                yield (
                    f"feature space {store.fingerprint}: {count(done.rewritten, 'shard')} became "
                    f"{count(done.written, 'shard')}{dead}; committed version {done.version}"
                )


def gc(target: Target, keep: int, grace_hours: float) -> Iterator[str]:
    """Collect garbage, and yield one line with what was removed."""
    with target.held() as found:
        done = collect(target.root, keep, grace_hours * 3600, found)
    yield (
        f"removed {count(done.versions, 'version')}, {count(done.segments, 'segment')}, {count(done.shards, 'shard')}, "
        f"{count(done.heads, 'head')}: {size(done.size_bytes)}"
    )


def quarantine(target: Target, is_retried: bool) -> Iterator[str]:
    """Yield the table of quarantined images. is_retried: mark them as pending, so that a run tries them again."""
    store = one_space(target.root, target.space)
    version = chosen_version(store, None)
    bad, varied = quarantined(version, store), without_variants(version, store)
    rows = [["reason", "attempts", "first seen", "last tried", "path"]]
    for table, suffix in ((bad, ""), (varied, " (variants only)")):
        for row in table.to_pylist():
            times = (date_of(row["first_seen_ns"]), date_of(row["last_seen_ns"]))
            rows.append([visible(row["reason"]) + suffix, str(row["attempts"]), *times, visible(row["path"])])
    tried = bad.num_rows + varied.num_rows
    yield from columns(rows, right=" r") if tried else ["no quarantined images"]
    for code in sorted({*bad["reason"].to_pylist(), *varied["reason"].to_pylist()}):
        yield f"{visible(code)}: {MEANINGS.get(code, 'unknown to this release of the program')}"
    if is_retried and tried:
        with target.held():
            made = release(store, chosen_version(store, None))
        yield f"committed version {made.number}: the next run tries {count(tried, 'image')} again"


def promote(target: Target, head: str) -> Iterator[str]:
    """Make a head the current one."""
    with target.held() as (store, *_):
        before = current_head(store)
        make_current(store, head)
    yield f"{head} is the current head" + (f"; before, it was {before}" if before != head else "")
