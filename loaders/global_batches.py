"""An order of rows → the global batches of an epoch, whatever the number of ranks they are shared by."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from loaders.row_order import RowOrder, Rows


class GlobalBatch(NamedTuple):
    """The rows of one step over all ranks.

    Attributes:
        rows: (global batch size,) int64.
        repeats: how many at the end are there only to fill the batch up; they must not count.
    """

    rows: Rows
    repeats: int


class GlobalBatches(Protocol):
    """The batches of every epoch: `batch` is a pure function of (epoch, number)."""

    size: int

    def count(self, epoch: int) -> int:
        """Batches in an epoch."""

    def batch(self, epoch: int, number: int) -> GlobalBatch:
        """Batch `number` of an epoch."""


class ConsecutiveBatches:
    """Cuts an order into batches."""

    def __init__(self, order: RowOrder, size: int, *, drop_last: bool) -> None:
        """`drop_last`: leave out the rows that do not fill a batch; otherwise fill it up with rows of its start."""
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
    """A batch of `size` rows: `rows`, then the same ones again as often as needed."""
    return GlobalBatch(np.resize(rows, size), size - len(rows))
