"""Samples → a batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import get_worker_info

from loaders.blocks import Array, Block
from loaders.samples import Sample, Samples


class Batch(dict[str, torch.Tensor]):
    """The tensors of a batch by name, and how many of its images failed and were left blank.

    A worker sends its text as the small arrays it was made of, in the message itself: a tensor each would cost more in
    file descriptors than everything else. On 2 shared cores that gave 1.6 to 2.5 times the rows/s
    (`python -m benchmarks.batch_transport`: 64 rows of 2,048 positions a batch, no images, two workers).
    """

    failed_images: int = 0
    _source: _BatchParts | None = None
    _versions: tuple[tuple[str, int, int], ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # Whoever puts other tensors in, or writes into these, sends what is there now.
        if self._source is not None and self._versions == _versions(self):
            return _make_batch, (self._source,)
        return _restore, (dict(self), self.failed_images)


class _BatchParts(NamedTuple):
    """What a batch is made of."""

    text: Block
    has_image: Array
    images: torch.Tensor | None
    failed_images: int
    ignore_index: int | None


def _make_batch(source: _BatchParts) -> Batch:
    batch = Batch(source.text.tensors())
    if source.ignore_index is not None:
        batch["labels"].masked_fill_(batch["loss_mask"] == 0, source.ignore_index)
    batch["has_image"] = torch.from_numpy(source.has_image)
    if source.images is not None:
        batch["image_data"] = source.images
    batch.failed_images = source.failed_images
    return batch


def _restore(tensors: dict[str, torch.Tensor], failed_images: int) -> Batch:
    batch = Batch(tensors)
    batch.failed_images = failed_images
    return batch


def _versions(batch: Batch) -> tuple[tuple[str, int, int], ...]:
    """Changes when a tensor is replaced, or written into by torch."""
    return tuple((key, id(tensor), tensor._version) for key, tensor in batch.items())


class Collator:
    """Stacks the samples of `LlavaH5Dataset`."""

    def __init__(
        self,
        *,
        max_sequence_length: int,
        image_end: int,
        trim_to: int | None = None,
        ignore_index: int | None = None,
    ) -> None:
        """Set up; `LlavaH5Dataset.collator` fills in what follows from the dataset.

        Args:
            max_sequence_length: positions in a row.
            image_end: the position behind the last image slot.
            trim_to: cut the sequence axis to the longest row, rounded up to a multiple of this; None keeps all.
            ignore_index: what labels without loss become, as `torch.nn.functional.cross_entropy` expects it; None
                leaves them as stored (the next token, also where there is no loss).

        Raises:
            ValueError: `trim_to` is not positive.
        """
        if trim_to is not None and trim_to < 1:
            raise ValueError(f"trim_to is {trim_to}, expected a positive multiple such as 64, or None")
        self._length = max_sequence_length
        self._image_end = image_end
        self._trim_to = trim_to
        self._ignore_index = ignore_index

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Make a batch.

        Returns:
            `text_input_ids`, `labels`, `loss_mask`, `key_padding_mask`: (B, T) int32, T the maximum sequence length
            or what `trim_to` leaves; `has_image`: (B,) bool; and, where the dataset reads images, `image_data`:
            (B, 3, image_size, image_size).
        """
        rows = Samples.of(samples)
        source = _BatchParts(
            text=rows.text.trimmed(self._trimmed_length(rows)),
            has_image=rows.has_image,
            images=None if rows.images is None else torch.stack(list(rows.images)),
            failed_images=int(rows.image_failed.sum()),
            ignore_index=self._ignore_index,
        )
        batch = _make_batch(source)
        if get_worker_info() is not None:
            batch._source, batch._versions = source, _versions(batch)
        return batch

    def _trimmed_length(self, rows: Samples) -> int:
        if self._trim_to is None:
            return self._length
        longest = max(self._image_end, int(rows.used_lengths.max()))
        return min(self._length, -(-longest // self._trim_to) * self._trim_to)
