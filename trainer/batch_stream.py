"""A loader → one endless sequence of micro-batches, with its place and the time it was waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from loaders import LlavaDataLoader

MicroBatch = dict[str, Tensor]
# Of a free batch, these have an entry for each image and not for each row.
_OF_IMAGES = ("image_data", "image_rows", "image_starts", "image_slots")


class BatchStream:
    """What the Hugging Face Trainer gets as its loader.

    It has no length, so that to the Trainer a whole run is one epoch: the Trainer's own way of resuming within an
    epoch counts its steps from the start of that epoch again and would leave gradients of a broken group behind.
    Epochs, order and place are the loader's.

    Attributes:
        waited: seconds spent waiting for the loader since the start.
    """

    def __init__(
        self, loader: LlavaDataLoader, *, micro_batch_size: int | None, trim_to: int | None, image_end: int
    ) -> None:
        """Set up.

        Args:
            loader: its batches are one process's share of an optimizer step.
            micro_batch_size: rows in a micro-batch, a divisor of the loader's batch size; None takes all of them.
            trim_to: cut each micro-batch to its longest row, rounded up to a multiple of this; None keeps all.
            image_end: of fixed rows, the position behind the last image slot, which is never cut; 0 for free ones,
                whose images are parts of their samples.
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
        """The place in the loader: right between optimizer steps, when all micro-batches of a batch are taken."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place. Raises ValueError when it is that of other data or batches."""
        self.loader.load_state_dict(state)

    def _wait_for(self, batches: Iterator[Any]) -> dict[str, Tensor] | None:
        asked = time.perf_counter()
        batch = next(batches, None)
        self.waited += time.perf_counter() - asked
        return batch

    def _trim(self, batch: MicroBatch) -> MicroBatch:
        """Cut what no row attends to. The loader could, but only to the longest row of the whole step."""
        if self._trim_to is None:
            return batch
        # The slots of an image that failed are not attended to, but belong to their sample.
        used = batch["segment_ids"] > 0 if "segment_ids" in batch else batch["key_padding_mask"] == 0
        longest = max(int(torch.nonzero(used.any(dim=0)).max()) + 1, self._image_end)
        length = -(-longest // self._trim_to) * self._trim_to
        # Only the sequences have the length of a row as their second axis.
        full = used.shape[1]
        return {name: v[:, :length] if v.ndim == 2 and v.shape[1] == full else v for name, v in batch.items()}


def rows_of(batch: MicroBatch, start: int, stop: int) -> MicroBatch:
    """Rows `start` … `stop`-1 of a batch, fixed or free, with their images."""
    if "image_rows" not in batch:
        return {name: values[start:stop] for name, values in batch.items()}
    mine = (batch["image_rows"] >= start) & (batch["image_rows"] < stop)
    part = {name: values[mine] if name in _OF_IMAGES else values[start:stop] for name, values in batch.items()}
    part["image_rows"] = part["image_rows"] - start
    return part
