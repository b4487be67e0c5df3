"""Compute the order of samples: a pure function of the row groups, a seed, an epoch and a window.

The seed permutes the row groups. Windows of K groups are read and shuffled together. Calls share no state, so that any
position of any epoch is available at once.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# The purposes of a hash of (seed, pass, purpose, ...).
GROUPS, SAMPLES, DRAWS, VIEWS, AUGMENTATIONS = range(5)


def mix(*words: int | np.ndarray) -> np.ndarray:
    """Hash integers to (1,) uint64, or (n,) arrays of integers elementwise to (n,) uint64.

    Adds each word to the state and applies splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
    generators, OOPSLA 2014). The result is the same on every platform and in every version of numpy.
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
    """The order of the samples of every epoch.

    group_starts: (groups + 1,) the first sample of each row group, then the number of samples. window_groups: K, the
    number of row groups shuffled together. seed: None keeps the order of the table. with_replacement: each place of a
    window draws a sample from that window independently. Every sample is expected once per epoch, and each epoch cuts
    new windows. Raises ValueError if `window_groups` is below 1.
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
        """The number of samples in an epoch."""
        return self.group_starts[-1]

    @property
    def num_windows(self) -> int:
        """The number of windows in an epoch."""
        return -(-(len(self.group_starts) - 1) // self.window_groups)

    def groups(self, epoch: int, window: int) -> np.ndarray:
        """(at most K,) the row groups of a window, in reading order."""
        start = window * self.window_groups
        return _permutation(len(self.group_starts) - 1, self.seed, epoch)[start : start + self.window_groups]

    def samples(self, epoch: int, window: int) -> np.ndarray:
        """(n,) the samples of a window, in the order in which the stream yields them."""
        starts = np.asarray(self.group_starts)
        groups = self.groups(epoch, window)
        indices = np.concatenate([np.arange(starts[g], starts[g + 1]) for g in groups])
        if self.seed is None:
            return indices
        if self.with_replacement:
            return indices[mix(self.seed, epoch, DRAWS, indices) % np.uint64(len(indices))]
        return indices[np.argsort(mix(self.seed, epoch, SAMPLES, indices), kind="stable")]

    def window_ends(self, epoch: int) -> np.ndarray:
        """(windows,) the number of samples of the epoch up to the end of each window."""
        sizes = np.diff(self.group_starts)[_permutation(len(self.group_starts) - 1, self.seed, epoch)]
        ends = np.cumsum(sizes)
        return ends[np.minimum(np.arange(1, self.num_windows + 1) * self.window_groups, len(ends)) - 1]


@lru_cache(maxsize=4)
def _permutation(num_groups: int, seed: int | None, epoch: int) -> np.ndarray:
    groups = np.arange(num_groups)
    if seed is None:
        return groups
    return np.argsort(mix(seed, epoch, GROUPS, groups), kind="stable")
