"""Divide an order of rows into the global batches of an epoch, independent of the number of ranks."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from loaders.row_order import RowOrder, Rows


class GlobalBatch(NamedTuple):
    """The rows of one step over all ranks.

    Attributes:
        rows: (global batch size,) int64, row numbers.
        repeats: number of rows at the end that only fill up the batch; their loss must not count.
    """

    rows: Rows
    repeats: int


class GlobalBatches(Protocol):
    """The batches of every epoch: `batch` is a pure function of (epoch, number)."""

    size: int

    def count(self, epoch: int) -> int:
        """Return the number of batches in an epoch."""

    def batch(self, epoch: int, number: int) -> GlobalBatch:
        """Return batch `number` of an epoch."""


class ConsecutiveBatches:
    """Splits an order into consecutive batches."""

    def __init__(self, order: RowOrder, size: int, *, drop_last: bool) -> None:
        """`drop_last`: drop the rows that do not fill a batch; otherwise fill it up with its own first rows."""
        self.size = size
        self._order = order
        self._count = order.rows // size if drop_last else -(-order.rows // size)

    def count(self, epoch: int) -> int:
        """See `GlobalBatches.count`; the same in every epoch."""
        return self._count

    def batch(self, epoch: int, number: int) -> GlobalBatch:
        """See `GlobalBatches.batch`."""
        start = number * self.size
        stop = min(start + self.size, self._order.rows)
        return fill_up(self._order.take(epoch, start, stop), self.size)


def fill_up(rows: Rows, size: int) -> GlobalBatch:
    """Return a batch of `size` rows: `rows`, repeated as often as needed."""
    return GlobalBatch(np.resize(rows, size), size - len(rows))
