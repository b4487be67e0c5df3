import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.reading.order import Order, mix

sizes = st.lists(st.integers(1, 9), min_size=1, max_size=12)
seeds = st.one_of(st.none(), st.integers(0, 2**64 - 1))


def order_of(group_sizes: list[int], window_groups: int, seed: int | None, with_replacement: bool = False) -> Order:
    return Order((0, *np.cumsum(group_sizes).tolist()), window_groups, seed, with_replacement)


def epoch_of(order: Order, epoch: int) -> list[int]:
    return [sample for window in range(order.num_windows) for sample in order.samples(epoch, window).tolist()]


@given(sizes, st.integers(1, 15), seeds, st.integers(0, 1000))
def test_every_sample_comes_exactly_once_an_epoch(group_sizes, window_groups, seed, epoch):
    order = order_of(group_sizes, window_groups, seed)
    assert sorted(epoch_of(order, epoch)) == list(range(order.num_samples))


@given(sizes, st.integers(1, 15), seeds, st.integers(0, 1000))
def test_a_window_holds_the_samples_of_its_groups_and_no_others(group_sizes, window_groups, seed, epoch):
    order = order_of(group_sizes, window_groups, seed)
    seen = []
    for window in range(order.num_windows):
        groups = order.groups(epoch, window).tolist()
        assert 1 <= len(groups) <= window_groups
        expected = [s for g in groups for s in range(order.group_starts[g], order.group_starts[g + 1])]
        assert sorted(order.samples(epoch, window).tolist()) == sorted(expected)
        seen += groups
    assert sorted(seen) == list(range(len(group_sizes)))


@given(sizes, st.integers(1, 15), seeds, st.integers(0, 1000))
def test_window_ends_say_how_many_samples_have_been_given(group_sizes, window_groups, seed, epoch):
    order = order_of(group_sizes, window_groups, seed)
    lengths = [len(order.samples(epoch, window)) for window in range(order.num_windows)]
    assert order.window_ends(epoch).tolist() == np.cumsum(lengths).tolist()


@given(sizes, st.integers(1, 15), st.integers(0, 1000))
def test_without_a_seed_the_order_is_that_of_the_table(group_sizes, window_groups, epoch):
    order = order_of(group_sizes, window_groups, None)
    assert epoch_of(order, epoch) == list(range(order.num_samples))


def test_the_order_is_pinned():
    order = order_of([3, 3, 3, 3], 2, seed=7)
    assert [epoch_of(order, epoch) for epoch in (0, 1)] == [
        [5, 3, 0, 2, 4, 1, 7, 6, 8, 10, 9, 11],
        [2, 9, 11, 10, 0, 1, 7, 3, 4, 5, 8, 6],
    ]


def test_the_hash_behind_the_order_is_pinned():
    assert mix(0).tolist() == [0xE220A8397B1DCDAF]  # the first output of splitmix64 seeded with 0
    assert mix(1, 2, np.arange(2)).tolist() == [0xE68E6FC01DF08360, 0x0D022233FA9DEDCB]


def test_any_position_can_be_had_without_those_before():
    order = order_of([4] * 10, 3, seed=5)
    backwards = {(e, w): order.samples(e, w).tolist() for e in (9, 0, 4) for w in (3, 1, 2, 0)}
    again = order_of([4] * 10, 3, seed=5)
    assert backwards == {(e, w): again.samples(e, w).tolist() for e in (0, 4, 9) for w in range(4)}


def test_epochs_and_seeds_differ():
    orders = [epoch_of(order_of([8] * 8, 2, seed), epoch) for seed in range(5) for epoch in range(5)]
    assert len({tuple(order) for order in orders}) == 25


def test_one_window_over_everything_mixes_across_groups():
    order = order_of([10] * 10, 10, seed=0)
    first_ten = {sample // 10 for sample in epoch_of(order, 0)[:10]}
    assert len(first_ten) > 3


def test_samples_of_one_group_do_not_keep_their_order():
    order = order_of([50], 1, seed=0)
    assert epoch_of(order, 0) != epoch_of(order, 1) != list(range(50))


def test_every_sample_is_about_as_often_first():
    order = order_of([1] * 4, 4, seed=0)
    counts = np.bincount([order.samples(epoch, 0)[0] for epoch in range(2000)], minlength=4)
    assert counts.min() > 400


@given(sizes, st.integers(1, 15), st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_with_replacement_a_window_draws_as_many_from_its_own_samples(group_sizes, window_groups, seed, epoch):
    order, drawing = order_of(group_sizes, window_groups, seed), order_of(group_sizes, window_groups, seed, True)
    for window in range(order.num_windows):
        own, drawn = order.samples(epoch, window), drawing.samples(epoch, window)
        assert len(drawn) == len(own)
        assert set(drawn.tolist()) <= set(own.tolist())


def test_with_replacement_every_sample_is_drawn_about_once_an_epoch_and_a_third_not_at_all():
    order = order_of([10] * 20, 5, 3, True)
    epochs = [epoch_of(order, epoch) for epoch in range(400)]
    counts = np.bincount(np.concatenate(epochs), minlength=200)
    assert counts.sum() == 400 * 200
    assert 300 < counts.min() < counts.max() < 500
    assert np.mean([1 - len(set(epoch)) / 200 for epoch in epochs]) == pytest.approx(np.exp(-1), abs=0.02)


@pytest.mark.parametrize("window_groups", [0, -1])
def test_a_window_without_a_group_is_refused(window_groups):
    with pytest.raises(ValueError, match="at least one row group"):
        Order((0, 3), window_groups, 0)


@pytest.mark.parametrize(("window_groups", "off"), [(2, 0.5), (8, 0.25), (32, 0.12)])
def test_windows_of_a_set_sorted_by_class_hold_both_classes(window_groups, off):
    """64 groups of 128 samples, one class after the other: how far the share of a class in a window is from one half.

    A window of K groups drawn at random has a share with standard deviation sqrt((64 - K) / 63) / (2 sqrt(K)): 0.35, 0.17, 0.063.
    """
    order = order_of([128] * 64, window_groups, seed=1)
    shares = [
        np.mean(order.samples(epoch, window) >= 32 * 128) for epoch in range(20) for window in range(order.num_windows)
    ]
    spread = np.sqrt(np.mean((np.array(shares) - 0.5) ** 2))
    expected = np.sqrt((64 - window_groups) / 63) / (2 * np.sqrt(window_groups))
    assert spread == pytest.approx(expected, rel=0.25)
    assert spread < off


def test_within_a_window_of_a_sorted_set_every_batch_is_as_mixed_as_the_window():
    order = order_of([128] * 64, 16, seed=2)
    for window in range(order.num_windows):
        is_second = order.samples(0, window) >= 32 * 128
        batches = is_second.reshape(-1, 128).mean(axis=1)
        # Drawn without replacement, a batch's share is off by 0.044 with p (1 - p) = 1/4; four times that is never seen.
        assert np.abs(batches - is_second.mean()).max() < 0.18
