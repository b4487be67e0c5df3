import numpy as np

from vision.inspection.groups import Copies, faults, groups


def found(*group: Copies, **scores: float) -> list[tuple]:
    """scores: for example _1_2=0.98."""
    both: dict[int, dict[int, float]] = {}
    for name, score in scores.items():
        one, other = map(int, name.strip("_").split("_"))
        both.setdefault(one, {})[other] = both.setdefault(other, {})[one] = score
    return sorted((f.file, f.finding, f.partner, f.score) for f in faults(group, both))


def test_groups_do_not_depend_on_the_order_of_pairs():
    pairs = np.array([(1, 5), (5, 9), (2, 3), (9, 11), (30, 40)])
    for seed in range(10):
        random = np.random.default_rng(seed)
        mixed = random.permutation(pairs)
        mixed = np.where(random.random((len(mixed), 1)) < 0.5, mixed, mixed[:, ::-1])
        assert groups(*mixed.T) == {1: 1, 5: 1, 9: 1, 11: 1, 2: 2, 3: 2, 30: 30, 40: 30}


def test_a_leak_is_named_by_the_image_in_training():
    assert found(Copies(1, "cats", "validation", [0]), Copies(1, "cats", "train", [7])) == [(7, "leak", 0, 1.0)]
    assert found(Copies(1, "a", "train", [0]), Copies(2, "a", "test", [7]), _1_2=0.98) == [(0, "leak", 7, 0.98)]


def test_both_sides_of_a_conflict_are_named():
    expected = [(0, "conflict", 3, 0.97), (3, "conflict", 0, 0.97)]
    assert found(Copies(1, "cats", "train", [0]), Copies(2, "dogs", "train", [3]), _1_2=0.97) == expected


def test_all_but_the_first_of_a_class_and_split_are_redundant():
    assert found(Copies(1, "cats", "train", [2, 4, 6])) == [(4, "redundant", 2, 1.0), (6, "redundant", 2, 1.0)]


def test_the_partner_is_the_best_and_a_chain_counts_as_its_weakest_link():
    group = Copies(1, "a", "train", [0]), Copies(2, "a", "train", [1]), Copies(3, "a", "test", [2])
    expected = [(0, "leak", 2, 0.97), (1, "leak", 2, 0.99), (1, "redundant", 0, 0.97)]
    assert found(*group, _1_2=0.97, _2_3=0.99) == expected


def test_a_picture_that_is_there_ten_thousand_times_costs_no_square():
    group = Copies(1, "a", "train", range(0, 20_000, 2)), Copies(1, "b", "test", range(1, 20_001, 2))
    assert len(found(*group)) == 10_000 + 2 * 10_000 + 2 * 9_999
