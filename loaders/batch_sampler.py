"""Batch sampler of a torch `DataLoader` that yields one rank's part of every global batch."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from loaders.global_batches import GlobalBatches
from loaders.samples import WithoutLoss


class RankBatchSampler(Sampler[list[int]]):
    """Yields the rows of one rank for each global batch; the parts of all ranks in order form the global batch.

    A row that only fills up the last batch is yielded as `WithoutLoss(row)`.

    Attributes:
        epoch: the epoch of the next iteration.
        start: the first batch of the next iteration.
    """

    def __init__(self, batches: GlobalBatches, *, rank: int, world_size: int) -> None:
        """`batches.size` must be a multiple of `world_size`."""
        self._batches = batches
        self._rank = rank
        self._rows = batches.size // world_size
        self.epoch = 0
        self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        # Not a generator itself, so that epoch and start are read at this call and not at the first batch.
        return self._iterate(self.epoch, self.start)

    def _iterate(self, epoch: int, start: int) -> Iterator[list[int]]:
        first = self._rank * self._rows
        for number in range(start, self._batches.count(epoch)):
            batch = self._batches.batch(epoch, number)
            rows = batch.rows.tolist()
            real = len(rows) - batch.repeats
            rows[real:] = map(WithoutLoss, rows[real:])
            yield rows[first : first + self._rows]

    def __len__(self) -> int:
        """Number of batches in the whole epoch."""
        return self._batches.count(self.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; if it changes, the next iteration starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0
