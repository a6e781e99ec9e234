"""Orders of rows as pure functions of (seed, epoch, position), the same for every rank and worker."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from preprocess.splitmix64 import GAMMA, mixed

Rows = npt.NDArray[np.int64]


class RowOrder(Protocol):
    """An endless sequence of epochs, each with an order of `rows` row numbers."""

    rows: int

    def take(self, epoch: int, start: int, stop: int) -> Rows:
        """Return the rows at positions `start` … `stop`-1 of an epoch, int64; 0 <= start <= stop <= rows."""


class SequentialOrder:
    """Rows in stored order in every epoch."""

    def __init__(self, first: int, rows: int) -> None:
        """`first`: number of the first row; `rows`: number of rows."""
        self.first = first
        self.rows = rows

    def take(self, epoch: int, start: int, stop: int) -> Rows:
        """See `RowOrder.take`."""
        return np.arange(self.first + start, self.first + stop, dtype=np.int64)


class BlockShuffle:
    """Shuffles blocks, and then rows inside windows of consecutive blocks.

    A block is the unit of reading, so the rows of a window need one read per block. The plan of an epoch is computed
    once from its number; any position in it then costs the same, so resuming is free.
    """

    def __init__(self, starts: Sequence[int], sizes: Sequence[int], *, window: int, seed: int) -> None:
        """Create an order for the blocks of one dataset.

        Args:
            starts, sizes: first row number, and number of rows (at least 1), of every block.
            window: number of blocks whose rows are shuffled together.
            seed: any integer.
        """
        self._starts = np.asarray(starts, dtype=np.int64)
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._window = window
        self._seed = seed
        self.rows = int(self._sizes.sum())
        self._plan = lru_cache(maxsize=2)(self._plan_epoch)
        self._window_rows = lru_cache(maxsize=2)(self._shuffle_window)

    def take(self, epoch: int, start: int, stop: int) -> Rows:
        """See `RowOrder.take`."""
        if start >= stop:
            return np.zeros(0, dtype=np.int64)
        _, bounds = self._plan(epoch)
        first = int(np.searchsorted(bounds, start, side="right")) - 1
        last = int(np.searchsorted(bounds, stop, side="left")) - 1
        rows = np.concatenate([self._window_rows(epoch, number) for number in range(first, last + 1)])
        return rows[start - bounds[first] : stop - bounds[first]]

    def _plan_epoch(self, epoch: int) -> tuple[Rows, Rows]:
        """Return the order of the blocks, and the positions of the window bounds."""
        order = keyed_permutation(len(self._starts), "blocks", self._seed, epoch)
        ends = np.cumsum(self._sizes[order])
        return order, np.concatenate(([0], ends[self._window - 1 :: self._window], [self.rows]))

    def _shuffle_window(self, epoch: int, number: int) -> Rows:
        blocks = self._plan(epoch)[0][number * self._window : (number + 1) * self._window]
        starts, sizes = self._starts[blocks], self._sizes[blocks]
        rows = np.concatenate([np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)])
        return rows[keyed_permutation(len(rows), "window", self._seed, epoch, number)]


def keyed_permutation(n: int, *key: int | str) -> Rows:
    """Return the permutation of range(n) for a key, (n,) int64.

    It depends only on its arguments, not on the machine or the version of a random number library.
    """
    return np.argsort(keyed_hashes(n, *key), kind="stable")


def keyed_hashes(n: int, *key: int | str) -> npt.NDArray[np.uint64]:
    """Return n 64-bit numbers of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), seeded with a hash of the key."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    with np.errstate(over="ignore"):
        return mixed(np.uint64(int.from_bytes(digest, "little")) + np.arange(1, n + 1, dtype=np.uint64) * GAMMA)
