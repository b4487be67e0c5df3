import os
import tracemalloc
from collections import Counter
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import StoreDamaged
from storage.layout import Store
from storage.reading.open_shards import MOST_FILES
from storage.reading.samples import SAMPLE, SampleTable, ViewTable, pin
from storage.reading.stream import FeatureStream
from storage.shards.shard import ROWS_PER_GROUP, Shard, write_shard
from tests import toy
from tests.examples import examples

ROWS = (300, 128, 5, 129)
SHAPE = (4,)
GROUP_MB = ROWS_PER_GROUP * 8 / 2**20  # a group of rows of four float16

EVERY_ROW = [(s, row, row % 3) for s, rows in enumerate(ROWS) for row in range(rows)]
WHOLE_GROUPS = [sample for sample in EVERY_ROW if sample[0] < 2]

sample = st.integers(0, len(ROWS) - 1).flatmap(
    lambda s: st.tuples(st.just(s), st.integers(0, ROWS[s] - 1), st.integers(0, 2))
)


@st.composite
def samples_with_copies(draw) -> list[tuple[int, int, int]]:
    """A few samples or whole row groups, and some images many times, within a class and across classes."""
    few = st.lists(sample, min_size=1, max_size=60)
    base = draw(st.one_of(few, st.sampled_from([EVERY_ROW, WHOLE_GROUPS])))
    copied = draw(st.lists(st.tuples(st.one_of(sample, st.sampled_from(base)), st.integers(1, 300)), max_size=3))
    relabelled = draw(st.integers(0, 2))
    return [*base, *(one for one, count in copied for one in [one, (*one[:2], relabelled)] * count)]


samples = samples_with_copies()
memories = st.one_of(
    st.sampled_from([0, 2 * GROUP_MB, 4 * GROUP_MB, 6 * GROUP_MB, 100, 10**23]), st.floats(0, 16 * GROUP_MB).map(float)
)
seeds = st.one_of(st.none(), st.integers(0, 100))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> tuple[Store, tuple]:
    """A store whose rows say which they are: (shard, row, 0, 0)."""
    store = Store(tmp_path_factory.mktemp("shelf"), "0" * 32)
    refs = []
    for shard, rows in enumerate(ROWS):
        features = np.zeros((rows, *SHAPE), np.float16)
        features[:, 0], features[:, 1] = shard, np.arange(rows)
        digests = [bytes([shard, index // 256, index % 256]) + bytes(29) for index in range(rows)]
        refs.append(write_shard(store, digests, features, {}, {}))
    return store, tuple(refs)


def table_of(refs: tuple, rows: list[tuple[int, int, int]]) -> SampleTable:
    return SampleTable(np.array(sorted(rows), SAMPLE), refs, ("a", "b", "c"))


def everything(refs: tuple) -> SampleTable:
    return table_of(refs, EVERY_ROW)


def given_by(stream: FeatureStream, epoch: int = 0, first_step: int = 0, **options) -> list[list[tuple[int, int, int]]]:
    """The batches as lists of (shard, row, class)."""
    return [
        [(int(f[0]), int(f[1]), int(label)) for f, label in zip(features, labels, strict=True)]
        for features, labels in stream.batches(epoch, first_step, **options)
    ]


def flat(batches: list[list]) -> list:
    return [sample for batch in batches for sample in batch]


@settings(max_examples=examples(20))
@given(samples, st.integers(1, 70), seeds, memories, st.integers(0, 5))
def test_every_sample_is_given_once_an_epoch_with_its_own_label(shelf, rows, batch_size, seed, memory_mb, epoch):
    store, refs = shelf
    stream = FeatureStream(store, table_of(refs, rows), batch_size, seed, memory_mb)
    assert sorted(flat(given_by(stream, epoch))) == sorted(rows)


@settings(max_examples=examples(13))
@given(samples, st.integers(1, 70), seeds, memories)
def test_batches_are_full_but_for_the_last(shelf, rows, batch_size, seed, memory_mb):
    store, refs = shelf
    stream = FeatureStream(store, table_of(refs, rows), batch_size, seed, memory_mb)
    sizes = [len(batch) for batch in given_by(stream)]
    size = min(batch_size, len(rows))
    assert sizes == [size] * (len(rows) // size) + ([len(rows) % size] if len(rows) % size else [])
    assert len(sizes) == stream.steps


@settings(max_examples=examples(13))
@given(samples, st.integers(1, 20), seeds, memories, st.integers(0, 5), st.data())
def test_going_on_at_a_step_gives_the_tail_of_the_epoch(shelf, rows, batch_size, seed, memory_mb, epoch, data):
    store, refs = shelf
    stream = FeatureStream(store, table_of(refs, rows), batch_size, seed, memory_mb)
    step = data.draw(st.integers(0, stream.steps))
    assert given_by(stream, epoch, step) == given_by(stream, epoch)[step:]


@settings(max_examples=examples(10))
@given(samples, st.integers(1, 20), memories)
def test_without_a_seed_the_stream_is_the_table(shelf, rows, batch_size, memory_mb):
    store, refs = shelf
    stream = FeatureStream(store, table_of(refs, rows), batch_size, None, memory_mb)
    assert flat(given_by(stream)) == sorted(rows)


@pytest.mark.parametrize("memory_mb", [0, 3 * GROUP_MB, 4 * GROUP_MB, 256])
def test_every_tail_of_a_large_table_is_the_tail_of_its_epoch(shelf, memory_mb):
    store, refs = shelf
    stream = FeatureStream(store, everything(refs), 50, 3, memory_mb)
    whole = given_by(stream, epoch=2)
    assert all(given_by(stream, 2, step) == whole[step:] for step in range(len(whole) + 1))


@settings(max_examples=examples(13))
@given(samples, st.integers(1, 20), st.integers(1, 30), memories, st.integers(0, 4))
def test_epochs_of_so_many_steps_cut_the_passes_without_a_gap(shelf, rows, batch_size, steps, memory_mb, epochs):
    store, refs = shelf
    whole = FeatureStream(store, table_of(refs, rows), batch_size, 5, memory_mb)
    cut = FeatureStream(store, table_of(refs, rows), batch_size, 5, memory_mb, steps=steps)
    found = [batch for epoch in range(epochs) for batch in given_by(cut, epoch)]
    passes = [batch for number in range(len(found) // whole.steps + 1) for batch in given_by(whole, number)]
    assert found == passes[: epochs * steps]
    if epochs:
        assert given_by(cut, epochs - 1, steps // 2) == found[(epochs - 1) * steps :][steps // 2 :]
        assert given_by(cut, 0, steps // 2, epochs=epochs) == found[steps // 2 :]


@settings(max_examples=examples(13))
@given(samples, st.integers(1, 20), st.integers(1, 30), memories, st.integers(1, 5), st.data())
def test_the_batches_of_all_readers_are_those_of_one(shelf, rows, batch_size, steps, memory_mb, readers, data):
    store, refs = shelf
    stream = FeatureStream(store, table_of(refs, rows), batch_size, 5, memory_mb, steps=steps)
    epoch, first_step = data.draw(st.integers(0, 3)), data.draw(st.integers(0, steps))
    whole = given_by(stream, epoch)
    for reader in range(readers):
        found = [
            [(int(f[0]), int(f[1]), int(label)) for f, label in zip(*batch, strict=True)]
            for batch in stream.batches(epoch, first_step, reader, readers)
        ]
        assert found == [batch for step, batch in enumerate(whole) if step >= first_step and step % readers == reader]


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_the_number_of_read_threads_changes_no_batch(shelf, threads):
    store, refs = shelf
    one, other = (
        FeatureStream(store, everything(refs), 32, 9, 8 * GROUP_MB, read_threads=count) for count in (2, threads)
    )
    assert given_by(one, epoch=1) == given_by(other, epoch=1)


def test_epochs_follow_each_other_without_an_end(shelf):
    store, refs = shelf
    stream = FeatureStream(store, everything(refs), 100, 4, 1)
    found = [labels.tolist() for _, labels in islice(stream.epochs(first_epoch=1), 2 * stream.steps)]
    assert found == [[s[2] for s in batch] for epoch in (1, 2) for batch in given_by(stream, epoch)]


def test_what_fits_into_one_window_is_read_once(shelf, tmp_path):
    store, refs = shelf
    copy = Store(tmp_path, store.fingerprint)
    for ref in refs:
        copy.shard(ref.name).parent.mkdir(parents=True, exist_ok=True)
        copy.shard(ref.name).write_bytes(store.shard(ref.name).read_bytes())
    whole, stream = (FeatureStream(where, everything(refs), 30, 4, 256) for where in (store, copy))
    assert stream.order.num_windows == 1
    assert given_by(stream) == given_by(whole)
    for ref in refs:
        copy.shard(ref.name).write_bytes(b"")
    assert given_by(stream, 1, epochs=3) == given_by(whole, 1, epochs=3)


# Copies of a picture


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("with_replacement", [False, True])
@pytest.mark.parametrize("seed", [None, 1])
def test_a_picture_that_is_there_60_000_times_takes_the_memory_of_one(tmp_path, seed, with_replacement, views):
    store, row_bytes = Store(tmp_path, "0" * 32), 2048
    features = np.zeros((600, row_bytes // 2), np.float16)
    ref = write_shard(store, [index.to_bytes(32, "big") for index in range(600)], features, {}, {})
    rows = [(0, row, 0) for row in range(600)] + [(0, 77, 1)] * 60_000
    table = table_of((ref,), rows)
    if views > 1:
        images = np.arange(len(rows), dtype=np.uint64)
        table = ViewTable(np.repeat(table.samples[None], views, axis=0), images, (ref,), table.classes)
    stream = FeatureStream(store, table, 128, seed, 1, with_replacement=with_replacement)
    assert stream.order.num_windows > 1
    tracemalloc.start()
    given = sum(len(labels) for _, labels in stream.batches(epochs=2))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert given == 2 * len(rows)
    # The order of a window while it is computed, and the tables of three passes over views; expanded, a copy takes 2,048.
    index_bytes = (40 if views == 1 else 80) * len(rows)
    assert peak_bytes < 2**20 + 3 * 128 * row_bytes + index_bytes


# Opening shards


@pytest.fixture
def opened(monkeypatch) -> Counter:
    """How often each shard is opened."""
    counted: Counter = Counter()

    def counting(store: Store, ref) -> Shard:
        counted[ref.name] += 1
        return Shard(store, ref)

    monkeypatch.setattr("storage.reading.open_shards.Shard", counting)
    return counted


def shards_of_groups(store: Store, format: str, shards: int, groups: int) -> SampleTable:
    """A table of every row of so many shards of so many row groups."""
    refs, rows = [], groups * ROWS_PER_GROUP
    for shard in range(shards):
        digests = [(shard * rows + row).to_bytes(32, "big") for row in range(rows)]
        features = np.full((rows, 1), shard, np.float16)
        refs.append(write_shard(store, digests, features, {}, {}, format=format))
    return table_of(tuple(refs), [(shard, row, 0) for shard in range(shards) for row in range(rows)])


@pytest.mark.parametrize("threads", [1, 4])
def test_an_npz_shard_is_opened_once_by_a_stream_however_many_there_are(tmp_path, opened, threads):
    """It is read whole when it is opened. 70 are more than may keep their files open."""
    store = Store(tmp_path, "0" * 32)
    table = shards_of_groups(store, "npz", shards=MOST_FILES + 6, groups=5)
    stream = FeatureStream(store, table, 512, 1, 8 * ROWS_PER_GROUP * 2 / 2**20, read_threads=threads)
    assert stream.order.num_windows > 70
    assert sum(len(labels) for _, labels in stream.batches(epochs=2)) == 2 * len(table)
    assert set(opened.values()) == {1}
    assert len(opened) == MOST_FILES + 6


def test_no_more_parquet_shards_than_so_many_are_open_at_a_time(tmp_path, opened):
    store = Store(tmp_path, "0" * 32)
    table = shards_of_groups(store, "parquet", shards=MOST_FILES + 6, groups=1)
    stream = FeatureStream(store, table, 512, None, 0)
    before = open_files()
    with closing(stream.batches(epochs=2)) as batches:
        most = max(open_files() for _ in batches)
    assert len(opened) == MOST_FILES + 6
    assert most <= before + MOST_FILES + 2, "one is read ahead, one is being opened"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_row_that_its_shard_does_not_have_stops_the_stream(shelf):
    store, refs = shelf
    with pytest.raises(StoreDamaged, match=refs[2].name):
        list(FeatureStream(store, table_of(refs, [(2, 4, 0), (2, 5, 0)]), 8, 0, 1).batches())


@settings(max_examples=examples(10))
@given(samples, st.integers(1, 20), memories, st.integers(0, 5))
def test_with_replacement_samples_keep_their_own_labels(shelf, rows, batch_size, memory_mb, epoch):
    store, refs = shelf
    stream = FeatureStream(store, table_of(refs, rows), batch_size, 1, memory_mb, with_replacement=True)
    found = flat(given_by(stream, epoch))
    assert len(found) == len(rows)
    assert set(found) <= set(rows)


def test_the_same_seed_and_epoch_give_the_same_order_in_another_stream(shelf):
    store, refs = shelf
    one, other = (FeatureStream(store, everything(refs), 32, 9, 4 * GROUP_MB) for _ in range(2))
    given_by(other, epoch=7)
    assert given_by(one, epoch=1) == given_by(other, epoch=1)
    assert given_by(one, epoch=1) != given_by(one, epoch=2)


def test_two_epochs_can_be_given_at_the_same_time(shelf):
    store, refs = shelf
    stream = FeatureStream(store, everything(refs), 64, 1, 2 * GROUP_MB)
    expected = given_by(stream, 0), given_by(stream, 1)
    both = [(a[1].tolist(), b[1].tolist()) for a, b in zip(stream.batches(0), stream.batches(1), strict=True)]
    assert both == [([s[2] for s in a], [s[2] for s in b]) for a, b in zip(*expected, strict=True)]


def test_batches_keep_their_values_when_later_ones_are_given(shelf):
    store, refs = shelf
    stream = FeatureStream(store, everything(refs), 64, 1, 0)
    kept = list(stream.batches(0))
    assert [f[:, 1].astype(int).tolist() for f, _ in kept] == [[s[1] for s in batch] for batch in given_by(stream)]


def test_a_stream_that_is_left_early_can_be_begun_again(shelf):
    store, refs = shelf
    stream = FeatureStream(store, everything(refs), 64, 1, 0)
    batches = stream.batches(0)
    next(batches)
    batches.close()
    assert sorted(flat(given_by(stream))) == [tuple(sample) for sample in everything(refs).samples.tolist()]


def test_a_batch_is_never_larger_than_the_data(shelf):
    store, refs = shelf
    stream = FeatureStream(store, table_of(refs, [(0, 0, 0), (3, 1, 1)]), 1000, 0, 1)
    assert (stream.batch_size, stream.steps) == (2, 1)


def test_batches_are_in_the_stored_dtype(shelf):
    store, refs = shelf
    features, labels = next(FeatureStream(store, everything(refs), 64, 1, 0).batches())
    assert (features.dtype, features.shape, labels.dtype) == (np.float16, (64, *SHAPE), np.uint16)


def test_memory_bounds_the_window_being_given_and_the_one_read_ahead(shelf):
    store, refs = shelf
    for groups in (1, 2, 3):
        stream = FeatureStream(store, everything(refs), 64, 1, 2 * groups * GROUP_MB)
        assert stream.order.window_groups == groups


def test_a_stream_without_samples_is_refused(shelf):
    store, refs = shelf
    with pytest.raises(ValueError, match="at least one sample"):
        FeatureStream(store, SampleTable(np.empty(0, SAMPLE), refs, ()), 8, 0, 1)


def test_a_damaged_shard_stops_the_stream_by_name(tmp_path):
    store = Store(tmp_path, "0" * 32)
    noise = np.random.default_rng(0).normal(0, 1, (300, 64)).astype(np.float16)
    ref = write_shard(store, [index.to_bytes(32, "big") for index in range(300)], noise, {}, {})
    path = store.shard(ref.name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    stream = FeatureStream(store, table_of((ref,), [(0, row, 0) for row in range(300)]), 64, 0, 0)
    with pytest.raises(StoreDamaged, match=ref.name):
        list(stream.batches())


@given(samples)
def test_groups_are_the_runs_of_samples_of_one_row_group(rows):
    table = table_of((), rows)
    starts = table.group_starts().tolist()
    groups = [
        {(int(s["shard"]), int(s["row"]) // ROWS_PER_GROUP) for s in table.samples[start:stop]}
        for start, stop in pairwise(starts)
    ]
    assert all(len(group) == 1 for group in groups)
    assert len(set().union(*groups)) == len(groups)
    assert (starts[0], starts[-1]) == (0, len(rows))


# Several views of each sample

rows_of_a_view = st.integers(0, len(ROWS) - 1).flatmap(lambda s: st.tuples(st.just(s), st.integers(0, ROWS[s] - 1)))


@st.composite
def views_of_samples(draw) -> tuple[np.ndarray, np.ndarray]:
    """(views, n) SAMPLE records, the class of a sample the same in all of its views, and the beginnings of n digests."""
    views = draw(st.integers(1, 5))
    columns = st.tuples(
        st.lists(rows_of_a_view, min_size=views, max_size=views), st.integers(0, 2), st.integers(0, 2**64 - 1)
    )
    found = draw(st.lists(columns, min_size=1, max_size=40))
    found += [one for one in found[:2] for _ in range(draw(st.sampled_from([700, 1, 0])))]
    samples = np.array([[(*place, label) for place in places] for places, label, _ in found], SAMPLE).T
    return samples, np.array([image for *_, image in found], np.uint64)


def view_table(refs: tuple, viewed: tuple[np.ndarray, np.ndarray]) -> ViewTable:
    return ViewTable(*viewed, refs, ("a", "b", "c"))


def everything_in_views(refs: tuple, views: int) -> ViewTable:
    """As many samples as divide all rows evenly, each in views that lie far apart."""
    rows = everything(refs).samples[: sum(ROWS) // views * views].reshape(views, -1).copy()
    rows["class"] = np.arange(rows.shape[1]) % 3
    return view_table(refs, (rows, np.random.default_rng(1).integers(0, 2**63, rows.shape[1]).astype("u8")))


def drawn(table: ViewTable, seed: int | None, number: int) -> list[tuple[int, int, int]]:
    return sorted(table.of_pass(seed, number).samples.tolist())


@settings(max_examples=examples(13))
@given(views_of_samples(), st.integers(1, 50), seeds, memories, st.integers(0, 5))
def test_a_pass_over_views_gives_the_rows_that_are_drawn_for_it(shelf, viewed, batch_size, seed, memory_mb, epoch):
    store, refs = shelf
    table = view_table(refs, viewed)
    stream = FeatureStream(store, table, batch_size, seed, memory_mb)
    found = given_by(stream, epoch)
    assert sorted(flat(found)) == drawn(table, seed, epoch)
    assert [len(batch) for batch in found][:-1] == [stream.batch_size] * (stream.steps - 1)
    assert stream.class_counts().tolist() == np.bincount(viewed[0]["class"][0], minlength=3).tolist()


@settings(max_examples=examples(10))
@given(views_of_samples(), st.integers(1, 20), st.integers(1, 30), memories, st.booleans(), st.data())
def test_over_views_too_a_stream_goes_on_at_any_step_and_for_any_reader(
    shelf, viewed, batch_size, steps, memory_mb, with_replacement, data
):
    """Whatever an epoch is, and however many passes of other views it crosses."""
    store, refs = shelf

    def stream(steps: int | None) -> FeatureStream:
        return FeatureStream(store, view_table(refs, viewed), batch_size, 5, memory_mb, steps, with_replacement)

    passes = stream(None)
    whole = flat([given_by(passes, number) for number in range(4 * steps // passes.steps + 1)])
    epoch, first_step = data.draw(st.integers(0, 3)), data.draw(st.integers(0, steps))
    assert given_by(stream(steps), epoch, first_step) == whole[epoch * steps : (epoch + 1) * steps][first_step:]
    readers = data.draw(st.integers(1, 4))
    expected = whole[epoch * steps : 4 * steps]
    for reader in range(readers):
        found = given_by(stream(steps), epoch, first_step, reader=reader, readers=readers, epochs=4 - epoch)
        assert found == [b for at, b in enumerate(expected) if at >= first_step and at % readers == reader]


@pytest.mark.parametrize("memory_mb", [0, 3 * GROUP_MB, 4 * GROUP_MB, 256])
def test_every_tail_of_passes_over_large_views_is_their_tail(shelf, memory_mb):
    store, refs = shelf
    table = everything_in_views(refs, 3)
    stream = FeatureStream(store, table, 20, 3, memory_mb)
    whole = given_by(stream, 2, epochs=2)
    assert all(given_by(stream, 2, step, epochs=2) == whole[step:] for step in range(len(whole) + 1))
    assert [sorted(flat(part)) for part in (whole[: stream.steps], whole[stream.steps :])] == [
        drawn(table, 3, 2),
        drawn(table, 3, 3),
    ]
    assert drawn(table, 3, 2) != drawn(table, 3, 3)


def test_two_passes_over_views_can_be_given_at_the_same_time(shelf):
    store, refs = shelf
    stream = FeatureStream(store, everything_in_views(refs, 4), 16, 1, 2 * GROUP_MB)
    numbers = (0, 1, 5, 9, 12)
    expected = [given_by(stream, number) for number in numbers]
    together = zip(*(stream.batches(number) for number in numbers), strict=True)
    found = [
        [[tuple(map(int, (f[0], f[1], c))) for f, c in zip(*batch, strict=True)] for batch in row] for row in together
    ]
    assert found == [list(row) for row in zip(*expected, strict=True)]


def test_features_in_a_batch_of_views_keep_their_values_when_later_ones_are_given(shelf):
    store, refs = shelf
    stream = FeatureStream(store, everything_in_views(refs, 4), 16, 1, 0)
    kept = list(stream.batches(0, epochs=3))
    assert [f[:, 1].astype(int).tolist() for f, _ in kept] == [
        [s[1] for s in batch] for batch in given_by(stream, 0, epochs=3)
    ]


# Which samples those of a batch are


@settings(max_examples=examples(20))
@given(
    samples,
    st.integers(1, 30),
    seeds,
    memories,
    st.one_of(st.none(), st.integers(1, 30)),
    st.booleans(),
    st.data(),
)
def test_the_samples_of_a_batch_are_told_without_reading_it(
    shelf, rows, batch_size, seed, memory_mb, steps, with_replacement, data
):
    store, refs = shelf
    stream = FeatureStream(store, table_of(refs, rows), batch_size, seed, memory_mb, steps, with_replacement)
    epoch, epochs = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 3))
    first_step = data.draw(st.integers(0, stream.steps))
    told = list(stream.samples(epoch, first_step, epochs=epochs))
    batches = given_by(stream, epoch, first_step, epochs=epochs)
    assert [[tuple(stream.table.samples[at].tolist()) for at in places] for _, places in told] == batches
    assert [stream.labels(places).tolist() for _, places in told] == [[label for *_, label in b] for b in batches]
    steps_a_pass = -(-len(rows) // stream.batch_size)
    begin, end = epoch * stream.steps + first_step, (epoch + epochs) * stream.steps
    assert [number for number, _ in told] == [step // steps_a_pass for step in range(begin, end)]


def test_the_samples_of_batches_are_told_without_an_end(shelf):
    store, refs = shelf
    stream = FeatureStream(store, everything(refs), 100, 4, GROUP_MB, steps=4)
    told = list(islice(stream.samples(1, 2, epochs=None), 20))
    assert [places.tolist() for _, places in told] == [
        places.tolist() for _, places in islice(stream.samples(1, 2, epochs=9), 20)
    ]
    assert [number for number, _ in told] == [step // 6 for step in range(6, 26)]


def expected_samples(images: Path, store: Path, version, split: str) -> Counter:
    """(features, class) of each usable file of a split, straight from the tables of the version."""
    features = toy.features_of(images, store, version)
    files = version.read_files(toy.space(images, store).store).to_pylist()
    return Counter(
        (features[f["digest"]].tobytes(), f["class"]) for f in files if f["status"] == "ok" and f["split"] == split
    )


@pytest.mark.parametrize("memory_mb", [0, 1])
def test_a_pinned_version_streams_every_usable_image_with_its_class(images, store, tmp_path, memory_mb):
    (images / "cats/twin.png").write_bytes((images / "cats/001.png").read_bytes())
    (images / "dogs/stray.png").write_bytes((images / "cats/001.png").read_bytes())
    (images / "dogs/broken.png").write_bytes(b"no image")
    _, version = toy.run(images, store, validation_fraction=0.4)
    where = toy.space(images, store).store
    seen = 0
    for split in ("train", "validation"):
        table = pin(where, version, split, ("cats", "dogs"), tmp_path / "pinned")
        stream = FeatureStream(where, table, 3, 0, memory_mb)
        found = Counter(
            (f.tobytes(), table.classes[c]) for fs, cs in stream.batches() for f, c in zip(fs, cs, strict=True)
        )
        assert found == expected_samples(images, store, version, split)
        seen += found.total()
    assert seen == 22


def test_labels_follow_the_order_of_the_classes_given(images, store, tmp_path):
    _, version = toy.run(images, store)
    where = toy.space(images, store).store
    one = pin(where, version, "train", ("cats", "dogs"), tmp_path / "one")
    other = pin(where, version, "train", ("dogs", "cats"), tmp_path / "other")
    counts = np.bincount(one.samples["class"])
    assert counts.tolist() == [version.classes["train"]["cats"], version.classes["train"]["dogs"]]
    assert np.bincount(other.samples["class"]).tolist() == counts[::-1].tolist()


def test_the_images_of_a_class_that_is_not_named_are_left_out(images, store, tmp_path):
    _, version = toy.run(images, store)
    table = pin(toy.space(images, store).store, version, "train", ("dogs",), tmp_path)
    assert table.samples["class"].tolist() == [0] * version.classes["train"]["dogs"]


def test_pinning_again_gives_the_same_table_sorted_and_mapped(images, store, tmp_path):
    _, version = toy.run(images, store)
    where = toy.space(images, store).store
    one, other = (pin(where, version, "train", ("cats", "dogs"), tmp_path / "pinned") for _ in range(2))
    assert isinstance(one.samples, np.memmap)
    assert one.samples.tolist() == sorted(other.samples.tolist())


def test_a_split_without_images_is_an_empty_table(images, store, tmp_path):
    _, version = toy.run(images, store)
    table = pin(toy.space(images, store).store, version, "test", ("cats", "dogs"), tmp_path)
    assert len(table) == 0
    assert table.group_starts().tolist() == [0]


def test_pending_images_are_no_samples(images, store, tmp_path):
    _, version = toy.run(images, store, limit=7)
    where = toy.space(images, store).store
    tables = [pin(where, version, split, ("cats", "dogs"), tmp_path) for split in ("train", "validation")]
    assert sum(len(table) for table in tables) == 7
