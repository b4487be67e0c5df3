"""The plan of a run: what to extract and commit, decided once from the listing and the store."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import StorageError
from storage.layout import Store
from storage.manifest.diff import Changes, compare
from storage.manifest.file_table import KnownFailures, same_content, with_attempts, with_one_more_attempt, with_status
from storage.manifest.findings import findings
from storage.manifest.space import other_spaces
from storage.manifest.versions import Version, latest_version
from storage.planning.adoption import add_rows, adoptable_shards
from storage.planning.checks import check_listed, check_not_empty
from storage.planning.chunks import Cut, cut
from storage.planning.corrections import LeftOut, corrected_files, said
from storage.planning.options import PlanOptions
from storage.planning.rows import Missing, count_lost, missing_rows, present_rows
from storage.schemas import CORRECTIONS_SCHEMA, DIGEST, TODO_SCHEMA
from storage.shards.shard import Format, ShardRef
from storage.shards.view_ids import plain, views_of, with_augmentation
from storage.source.corrections import Corrected
from storage.source.listing import Listing
from storage.text import count

# Other files of the same bytes that are tried where the first cannot be read: enough for copies in a few folders, and few
# enough that a share that has failed is not asked for each of a thousand copies.
MOST_TWINS = 15


@dataclass(frozen=True)
class Plan:
    """The work of a run, and the content of the version before that work.

    parent: the newest version. files: FILES_SCHEMA, before extraction. rows: ROWS_SCHEMA, all rows that can be used,
    with adopted ones. shards: the shards of `rows`. failures: digest → reason of each unusable image.
    variant_failures: digest → reason of each usable image whose variants cannot be made.
    todo: TODO_SCHEMA, sorted by (split, digest). One row per image to extract: the views that it lacks (0: plain), and
    as `twins` other files of equal bytes. `cut` divides it into chunks; each becomes a shard in `format`.
    adopted: images whose missing rows a dead run left behind. lost: images of `todo` whose rows are in a lost shard.
    stale: images of `todo` that another feature space has. needs_commit: whether the next version would differ from
    the parent. augmentation: the augmentation of the variants in `todo`. augmentations: those that the views of `rows`
    index. findings: lines about folders and classes. waiting: images that the limit leaves to a later run. corrections:
    CORRECTIONS_SCHEMA, the files that a person excluded or relabelled.
    """

    parent: Version | None
    files: pa.Table
    rows: pa.Table
    shards: dict[str, ShardRef]
    failures: dict[bytes, str]
    variant_failures: dict[bytes, str]
    todo: pa.Table
    changes: Changes
    adopted: int
    lost: int
    stale: int
    ignored: int
    chunk_size: int
    format: Format
    needs_commit: bool
    augmentation: str = ""
    augmentations: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    waiting: int = 0
    full_chunks: int | None = None
    corrections: pa.Table = field(default_factory=CORRECTIONS_SCHEMA.empty_table)

    @property
    def cut(self) -> Cut:
        """Where the table `todo` is cut into chunks."""
        return Cut(self.chunk_size, self.full_chunks)

    @property
    def num_chunks(self) -> int:
        return self.cut.num_chunks(self.todo.num_rows)

    @property
    def num_rows(self) -> int:
        """The number of rows of all images in `todo`, if all of them are usable."""
        return pc.sum(pc.list_value_length(self.todo["views"])).as_py() or 0


def make_plan(store: Store, listing: Listing, options: PlanOptions) -> Plan:
    """Compare a listing with the newest version and the shards on disk. Writes nothing.

    Raises InputError if there is no image or the layout is ambiguous, LayoutChanged if the layout labels images
    differently than the newest version, and TooManyRemovals if more images are gone than `options` allow.
    """
    listing.scan.layout.check()
    parent = latest_version(store)
    check_not_empty(listing, parent)
    corrected = corrected_files(store, parent, listing, options)
    listing, known = replace(listing, files=corrected.files), KnownFailures()
    files, changes = _compared(store, listing, parent, known, corrected, options)
    found = _usable(store, parent, files, known, options)
    files = with_status(files, plain(found.rows)["digest"].combine_chunks(), found.failures, known.variant_failures)
    readable = listing.files.filter(pc.is_valid(listing.files["digest"]))["path"]
    todo, waiting = _within_limit(_todo(files, found.missing, readable), options.limit)
    return Plan(
        parent=parent,
        files=files,
        rows=found.rows,
        shards=found.shards,
        failures=found.failures,
        variant_failures=known.variant_failures,
        todo=todo,
        changes=changes,
        adopted=found.adopted,
        lost=found.lost,
        stale=_count_stale(store, found.missing) if parent is None else 0,
        ignored=listing.scan.ignored,
        **asdict(cut(todo.num_rows, options.chunk_size)),
        format=options.format,
        needs_commit=has_changes(store, parent, files, found.shards, corrected.applied) or todo.num_rows > 0,
        augmentation=_augmentation_of(options),
        augmentations=found.augmentations,
        findings=(*said(store, parent, corrected), *_findings(listing, files, changes, parent, options)),
        waiting=waiting,
        corrections=corrected.applied,
    )


def _compared(
    store: Store,
    listing: Listing,
    parent: Version | None,
    known: KnownFailures,
    corrected: Corrected,
    options: PlanOptions,
) -> tuple[pa.Table, Changes]:
    """The files of the next version, and the changes since the parent, whose failures go to `known`."""
    left_out = LeftOut(corrected.excluded)
    before = left_out.collect(known.collect(parent.file_segments(store) if parent else ()))
    files, changes = compare(listing.files, before, listing.scan.unreadable, options.validation_fraction)
    check_listed(listing, files, changes, parent, options, left_out.images)
    return with_attempts(files, known.retried), changes


@dataclass(frozen=True)
class _Usable:
    """The content of the store for the listed images; fields as in Plan.

    missing: the views that the store lacks.
    """

    rows: pa.Table
    shards: dict[str, ShardRef]
    failures: dict[bytes, str]
    augmentations: tuple[str, ...]
    missing: Missing
    adopted: int
    lost: int


def _usable(
    store: Store, parent: Version | None, files: pa.Table, known: KnownFailures, options: PlanOptions
) -> _Usable:
    """Find the usable rows: those of the newest version, and those that interrupted runs left on disk."""
    rows, shards, lost = present_rows(store, parent)
    failures, augmentation = known.failures, _augmentation_of(options)
    augmentations = parent.augmentations if parent else ()
    if augmentation:
        with_augmentation(augmentations, augmentation, store)  # fail before the work if there is no place for another

    def still_missing() -> Missing:
        views = views_of(augmentations, augmentation, options.variants)
        return missing_rows(files, rows, failures, known.variant_failures, views)

    missing, adopted = still_missing(), 0
    if missing:
        useful = adoptable_shards(store, shards, missing, augmentation, known.retried)
        rows, shards, found, augmentations = add_rows(store, rows, shards, useful, augmentations)
        # What is adopted is older than a retry, and an image that has a plain row by now is usable.
        found = {digest: code for digest, code in found.items() if digest not in known.retried}
        has_row = set(plain(rows)["digest"].to_pylist())
        failures = {digest: code for digest, code in (failures | found).items() if digest not in has_row}
        before, missing = missing, still_missing()
        adopted = sum(missing.get(digest) != views for digest, views in before.items())
    num_lost = count_lost(lost, missing, views_of(augmentations, augmentation, options.variants))
    return _Usable(rows, shards, failures, augmentations, missing, adopted, num_lost)


def _augmentation_of(options: PlanOptions) -> str:
    """The augmentation whose variants the plan makes; empty if it makes plain rows only."""
    return options.augmentation if options.variants > 1 else ""


def _within_limit(todo: pa.Table, limit: int | None) -> tuple[pa.Table, int]:
    """The images that this run extracts, and the number that wait. Chosen by digest, so every class gets its share."""
    if limit is None or todo.num_rows <= limit:
        return todo, 0
    picked = todo.take(pc.sort_indices(todo["digest"]).slice(0, limit))
    return picked.sort_by([("split", "ascending"), ("digest", "ascending")]), todo.num_rows - limit


def _findings(
    listing: Listing, files: pa.Table, changes: Changes, parent: Version | None, options: PlanOptions
) -> tuple[str, ...]:
    by_hash = listing.files["split"].null_count > 0
    return (
        *listing.scan.layout.remarks,
        *findings(files, str(listing.scan.root), options.classes, by_hash),
        *_from_test(changes, parent),
    )


def has_changes(
    store: Store, parent: Version | None, files: pa.Table, shards: Mapping[str, ShardRef], corrections: pa.Table
) -> bool:
    """Whether a version of `files`, `shards` and `corrections` would differ from its parent."""
    if parent is None or shards.keys() != parent.shards.keys():
        return True
    if not corrections.combine_chunks().equals(parent.read_corrections(store)):
        return True
    return not same_content(files, parent.file_segments(store))


def finish(
    store: Store, plan: Plan, new: Iterable[ShardRef]
) -> tuple[pa.Table, pa.Table, dict[str, ShardRef], tuple[str, ...]]:
    """The files, rows, shards and augmentations to commit after the plan's `new` shards are written.

    An image of the plan without a plain row or a failure in `new` stays pending. If an image has a plain row, its
    failure concerns only its variants.
    """
    rows, shards, found, augmentations = add_rows(store, plan.rows, plan.shards, new, plan.augmentations)
    failures, variant_failures = plan.failures | found, plan.variant_failures | found
    files = with_status(plan.files, plain(rows)["digest"].combine_chunks(), failures, variant_failures)
    return with_one_more_attempt(files, found), rows, shards, augmentations


def _from_test(changes: Changes, parent: Version | None) -> Iterator[str]:
    if changes.from_test and parent:
        yield (
            f"warning: {count(changes.from_test, 'test image')} of version {parent.number} moved to training or validation"
        )


def _todo(files: pa.Table, missing: Missing, readable: pa.ChunkedArray) -> pa.Table:
    """The images to extract: one row per digest that lacks views, with its first path, and its other paths as twins.

    readable: the paths that the listing could read. They come before paths that keep their digest from an earlier run.
    """
    if not missing:
        return TODO_SCHEMA.empty_table()
    candidates = files.filter(pc.is_in(files["digest"], pa.array(list(missing), DIGEST))).select(
        ["digest", "path", "split"]
    )
    is_known = pc.is_in(candidates["path"], readable.combine_chunks())
    candidates = pa.concat_tables([candidates.filter(is_known), candidates.filter(pc.invert(is_known))])
    paths: dict[bytes, list[bytes]] = {}
    for digest, path in zip(candidates["digest"].to_pylist(), candidates["path"].to_pylist(), strict=True):
        paths.setdefault(digest, []).append(path)
    first = pc.index_in(pa.array(list(paths), DIGEST), candidates["digest"].combine_chunks())
    table = candidates.take(first).sort_by([("split", "ascending"), ("digest", "ascending")])
    digests = table["digest"].to_pylist()
    columns = {
        "views": [missing[digest] for digest in digests],
        "twins": [paths[digest][1 : 1 + MOST_TWINS] for digest in digests],
    }
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column, TODO_SCHEMA.field(name).type))
    return table.cast(TODO_SCHEMA).combine_chunks()


def _count_stale(store: Store, missing: Missing) -> int:
    """The number of images that another feature space has and this one lacks."""
    elsewhere: set[bytes] = set()
    for other in other_spaces(store):
        with suppress(StorageError):  # what is wrong with another space is not this run's affair
            version = latest_version(other)
            if version:
                elsewhere.update(version.read_rows(other)["digest"].to_pylist())
    return len(elsewhere.intersection(missing))
