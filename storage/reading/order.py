"""The order of samples as arithmetic: a pure function of the groups, a seed, an epoch and a window.

Row groups are permuted; windows of K groups are read together and shuffled together. Nothing is
remembered between calls, so any position of any epoch can be had at once.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# What a hash of (seed, pass, purpose, ...) is for.
GROUPS, SAMPLES, DRAWS, VIEWS, AUGMENTATIONS = range(5)


def mix(*words: int | np.ndarray) -> np.ndarray:
    """Hash whole numbers to u64, the same on every platform and in every version of numpy.

    splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014),
    applied to each word added to the state before.
    """
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            state = state + np.asarray(word, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


@dataclass(frozen=True)
class Order:
    """Which samples come when.

    group_starts: (groups + 1,) where the samples of each row group begin. window_groups: K, how many
    row groups are shuffled together. seed: None keeps the order of the table. with_replacement: each
    place of a window takes a sample drawn from that window, whatever the others took; over an epoch
    every sample is expected once, as the windows are cut anew.
    """

    group_starts: tuple[int, ...]
    window_groups: int
    seed: int | None
    with_replacement: bool = False

    def __post_init__(self):
        if self.window_groups < 1:
            raise ValueError(f"a window needs at least one row group, got {self.window_groups}")

    @property
    def num_samples(self) -> int:
        return self.group_starts[-1]

    @property
    def num_windows(self) -> int:
        return -(-(len(self.group_starts) - 1) // self.window_groups)

    def groups(self, epoch: int, window: int) -> np.ndarray:
        """The row groups of a window, in the order in which they are read."""
        start = window * self.window_groups
        return _permutation(len(self.group_starts) - 1, self.seed, epoch)[start : start + self.window_groups]

    def samples(self, epoch: int, window: int) -> np.ndarray:
        """The samples of a window, in the order in which they are given."""
        starts = np.asarray(self.group_starts)
        groups = self.groups(epoch, window)
        indices = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in groups])
        if self.seed is None:
            return indices
        if self.with_replacement:
            return indices[mix(self.seed, epoch, DRAWS, indices) % np.uint64(len(indices))]
        return indices[np.argsort(mix(self.seed, epoch, SAMPLES, indices), kind="stable")]

    def window_ends(self, epoch: int) -> np.ndarray:
        """(windows,) how many samples of the epoch have been given when each window ends."""
        sizes = np.diff(self.group_starts)[_permutation(len(self.group_starts) - 1, self.seed, epoch)]
        ends = np.cumsum(sizes)
        return ends[np.minimum(np.arange(1, self.num_windows + 1) * self.window_groups, len(ends)) - 1]


@lru_cache(maxsize=4)
def _permutation(num_groups: int, seed: int | None, epoch: int) -> np.ndarray:
    groups = np.arange(num_groups)
    if seed is None:
        return groups
    return np.argsort(mix(seed, epoch, GROUPS, groups), kind="stable")
