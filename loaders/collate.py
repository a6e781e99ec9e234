"""Samples → a batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import get_worker_info

from loaders.blocks import Array, Block
from loaders.positions import position_ids, runs_of, segment_ids, sequence_bounds
from loaders.samples import Sample, Samples


class Batch(dict[str, torch.Tensor]):
    """The tensors of a batch by name; `failed_images` counts the images that could not be read and were left blank.

    A worker process sends the compact arrays of the text inside its message and the tensors are built by the receiver;
    sending each tensor separately would cost a file descriptor each. On 2 shared cores this gave 1.6 to 2.5 times the
    rows/s (`python -m benchmarks.batch_transport`: 64 rows of 2,048 positions per batch, no images, two workers).
    """

    failed_images: int = 0
    _source: _BatchParts | None = None
    _versions: tuple[tuple[str, int, int], ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # A batch that was modified after it was made is sent as its current tensors.
        if self._source is not None and self._versions == _versions(self):
            return _make_batch, (self._source,)
        return _restore, (dict(self), self.failed_images)


class _BatchParts(NamedTuple):
    """The parts from which a batch is built."""

    text: Block
    layout: _FixedLayout | _FreeLayout
    images: torch.Tensor | None
    failed_images: int
    ignore_index: int | None


class _FixedLayout(NamedTuple):
    """The parts that only a fixed batch has."""

    has_image: Array

    def tensors(self, row_length: int) -> dict[str, torch.Tensor]:
        return {"has_image": torch.from_numpy(self.has_image)}


class _FreeLayout(NamedTuple):
    """The parts that only a free batch has; `image_places` is (3, N): row, start and number of slots of each image."""

    sample_offsets: Array
    sample_lengths: Array
    image_places: Array
    with_cu_seqlens: bool

    def tensors(self, row_length: int) -> dict[str, torch.Tensor]:
        runs = runs_of(self.sample_offsets, self.sample_lengths, row_length)
        arrays = {"position_ids": position_ids(runs, row_length), "segment_ids": segment_ids(runs, row_length)}
        if self.with_cu_seqlens:
            bounds, longest = sequence_bounds(runs)
            arrays |= {"cu_seqlens": bounds, "max_seqlen": np.array(longest, dtype=np.int32)}
        arrays |= dict(zip(("image_rows", "image_starts", "image_slots"), self.image_places.copy(), strict=True))
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _make_batch(source: _BatchParts) -> Batch:
    batch = Batch(source.text.tensors())
    if source.ignore_index is not None:
        batch["labels"].masked_fill_(batch["loss_mask"] == 0, source.ignore_index)
    batch.update(source.layout.tensors(source.text.ids.shape[2]))
    if source.images is not None:
        batch["image_data"] = source.images
    batch.failed_images = source.failed_images
    return batch


def _restore(tensors: dict[str, torch.Tensor], failed_images: int) -> Batch:
    batch = Batch(tensors)
    batch.failed_images = failed_images
    return batch


def _versions(batch: Batch) -> tuple[tuple[str, int, int], ...]:
    """Return a value that changes if a tensor is replaced, or modified by torch."""
    return tuple((key, id(tensor), tensor._version) for key, tensor in batch.items())


class Collator:
    """Collates the samples of `LlavaH5Dataset` into a batch."""

    def __init__(
        self,
        *,
        max_sequence_length: int,
        image_end: int,
        trim_to: int | None = None,
        ignore_index: int | None = None,
        with_cu_seqlens: bool = False,
    ) -> None:
        """Create a collator; `LlavaH5Dataset.collator` does this with the parameters of the dataset.

        Args:
            max_sequence_length: positions in a row.
            image_end: for fixed rows, the position after the last image slot; 0 for free rows.
            trim_to: trim the sequence axis to the longest row, rounded up to a multiple of this; None does not trim.
            ignore_index: value for labels without loss, as in `torch.nn.functional.cross_entropy`; None leaves them
                as stored (the next token).
            with_cu_seqlens: add the bounds of samples to free batches.

        Raises:
            ValueError: `trim_to` is not positive.
        """
        if trim_to is not None and trim_to < 1:
            raise ValueError(f"trim_to is {trim_to}, expected a positive multiple such as 64, or None")
        self._length = max_sequence_length
        self._image_end = image_end
        self._trim_to = trim_to
        self._ignore_index = ignore_index
        self._with_cu_seqlens = with_cu_seqlens

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Make a batch.

        Returns:
            `text_input_ids`, `labels`, `loss_mask`, `key_padding_mask`: (B, T) int32; T is the maximum sequence
            length, or less with `trim_to`.

            Fixed rows add `has_image`: (B,) bool; and, if the dataset reads images, `image_data`:
            (B, 3, image_size, image_size).

            Free rows add `position_ids`, from 0 in each sample, and `segment_ids`, 1, 2, … for the samples of a row
            and 0 for padding: (B, T) int32; `image_rows`, `image_starts`, `image_slots`: (N,) int32, the row, first
            position and number of slots of each image of the batch; `image_data`: (N, 3, image_size, image_size); and
            with `with_cu_seqlens`, `cu_seqlens`: (S + 1,) int32, the bounds of the samples in the flattened batch of
            B * T positions, where the padding of a row counts as one more sample, and `max_seqlen`: () int32, the
            length of the longest.
        """
        rows = Samples.of(samples)
        source = _BatchParts(
            text=rows.rows.text(self._trimmed_length(rows)),
            layout=self._free_layout(rows) if rows.are_free else _FixedLayout(rows.has_image),
            images=rows.pixels,
            failed_images=int(rows.image_failed.sum()),
            ignore_index=self._ignore_index,
        )
        batch = _make_batch(source)
        if get_worker_info() is not None:
            batch._source, batch._versions = source, _versions(batch)
        return batch

    def _free_layout(self, rows: Samples) -> _FreeLayout:
        counts = [len(lengths) for lengths in rows.rows.lengths]
        places = [(row, image.start, image.slots) for row, images in enumerate(rows.rows.images) for image in images]
        return _FreeLayout(
            sample_offsets=np.concatenate(([0], np.cumsum(counts, dtype=np.int64))),
            sample_lengths=np.array(list(chain.from_iterable(rows.rows.lengths)), dtype=np.int32),
            image_places=np.array(places, dtype=np.int32).reshape(-1, 3).T,
            with_cu_seqlens=self._with_cu_seqlens,
        )

    def _trimmed_length(self, rows: Samples) -> int:
        if self._trim_to is None:
            return self._length
        longest = max(self._image_end, int(rows.used_lengths.max()))
        return min(self._length, -(-longest // self._trim_to) * self._trim_to)
