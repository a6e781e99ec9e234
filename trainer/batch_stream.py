"""Turn a loader into an endless stream of micro-batches with a resumable position and a measured waiting time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from loaders import LlavaDataLoader

MicroBatch = dict[str, Tensor]
# The tensors of a free batch that have one entry per image instead of one per row.
_PER_IMAGE = ("image_data", "image_rows", "image_starts", "image_slots")


class BatchStream:
    """The training data loader that is passed to the Hugging Face Trainer.

    It has no length, so the Trainer treats a whole run as one epoch. The Trainer's own resuming within an epoch would
    count steps from the start of that epoch again and keep gradients of an incomplete accumulation group. Epochs, order
    and position are managed by the loader instead.

    Attributes:
        waited: seconds spent waiting for the loader since the start.
    """

    def __init__(
        self, loader: LlavaDataLoader, *, micro_batch_size: int | None, trim_to: int | None, image_end: int
    ) -> None:
        """Create a stream.

        Args:
            loader: each of its batches is one process's share of an optimizer step.
            micro_batch_size: rows in a micro-batch, a divisor of the loader's batch size; None uses the whole batch.
            trim_to: trim each micro-batch to its longest row, rounded up to a multiple of this; None does not trim.
            image_end: for fixed rows, the position after the last image slot, which is never trimmed; 0 for free rows,
                whose images are part of their samples.
        """
        self.loader = loader
        self.waited = 0.0
        self._micro_batch_size = micro_batch_size
        self._trim_to = trim_to
        self._image_end = image_end

    def __iter__(self) -> Iterator[MicroBatch]:
        while True:
            batches = iter(self.loader)
            while (batch := self._wait_for(batches)) is not None:
                rows = len(batch["text_input_ids"])
                size = self._micro_batch_size or rows
                for start in range(0, rows, size):
                    yield self._trim(rows_of(batch, start, start + size))

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the loader; valid between optimizer steps, after all micro-batches of a batch."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a position.

        Raises:
            ValueError: it is not a position, or (`OtherOrderError`) belongs to other data or batches.
        """
        self.loader.load_state_dict(state)

    def _wait_for(self, batches: Iterator[Any]) -> dict[str, Tensor] | None:
        asked = time.perf_counter()
        batch = next(batches, None)
        self.waited += time.perf_counter() - asked
        return batch

    def _trim(self, batch: MicroBatch) -> MicroBatch:
        """Remove positions that no row attends to; the loader could trim only to the longest row of the whole step."""
        if self._trim_to is None:
            return batch
        # The slots of an image that could not be loaded are not attended to, but are part of their sample.
        used = batch["segment_ids"] > 0 if "segment_ids" in batch else batch["key_padding_mask"] == 0
        longest = max(int(torch.nonzero(used.any(dim=0)).max()) + 1, self._image_end)
        length = -(-longest // self._trim_to) * self._trim_to
        # Only per-position tensors have the row length as their second dimension.
        full = used.shape[1]
        return {name: v[:, :length] if v.ndim == 2 and v.shape[1] == full else v for name, v in batch.items()}


def rows_of(batch: MicroBatch, start: int, stop: int) -> MicroBatch:
    """Return rows `start` … `stop`-1 of a fixed or free batch, with their images."""
    if "image_rows" not in batch:
        return {name: values[start:stop] for name, values in batch.items()}
    mine = (batch["image_rows"] >= start) & (batch["image_rows"] < stop)
    part = {name: values[mine] if name in _PER_IMAGE else values[start:stop] for name, values in batch.items()}
    part["image_rows"] = part["image_rows"] - start
    return part
