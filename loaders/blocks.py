"""Rows of text as the bytes of their ids, plane by plane: gathered from many blocks first, put together afterwards.

A shard stores the lowest bytes of all ids of a chunk, then the second bytes, and so on. Left like this a block takes 6
bytes for each position instead of 10, a row of a batch is one copy, and the ids of a whole batch are put together by
a few calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]
TEXT_KEYS = ("text_input_ids", "labels", "loss_mask", "key_padding_mask")
ID_KEYS = TEXT_KEYS[:2]
# Ids below 65,536, as those of most vocabularies are, need no more.
FEWEST_ID_BYTES = 2


class Block(NamedTuple):
    """n rows.

    Attributes:
        planes: (2 * w + 2, n, max_sequence_length) uint8: the lowest byte of `text_input_ids`, that of `labels`, the
            next byte of each, …; then `loss_mask` and `key_padding_mask`.
        modality_lengths: (n,) int32.
        image_paths: (n,) bytes, empty for a text-only row.
    """

    planes: Array
    modality_lengths: Array
    image_paths: Array

    @property
    def text_input_ids(self) -> Array:
        """(n, max_sequence_length) int32."""
        array: Array = self._ids()[0].numpy()
        return array

    @property
    def labels(self) -> Array:
        """(n, max_sequence_length) int32."""
        array: Array = self._ids()[1].numpy()
        return array

    @property
    def loss_mask(self) -> Array:
        """(n, max_sequence_length) uint8."""
        array: Array = self.planes[-2]
        return array

    @property
    def key_padding_mask(self) -> Array:
        """(n, max_sequence_length) uint8."""
        array: Array = self.planes[-1]
        return array

    def tensors(self, length: int | None = None) -> dict[str, torch.Tensor]:
        """The four of `TEXT_KEYS`, (n, T) int32, cut to the first `length` positions."""
        masks = torch.from_numpy(self.planes[-2:, :, :length]).to(torch.int32)
        return dict(zip(TEXT_KEYS, (*self._ids(length), *masks), strict=True))

    def _ids(self, length: int | None = None) -> torch.Tensor:
        """`text_input_ids` and `labels`: (2, n, T) int32."""
        planes = torch.from_numpy(self.planes[:-2, :, :length])
        ids = planes[:2].to(torch.int32)
        for at in range(2, len(planes), 2):
            ids.add_(planes[at : at + 2].to(torch.int32), alpha=1 << 4 * at)
        return ids


def make_block(
    text_input_ids: Array, labels: Array, loss_mask: Array, key_padding_mask: Array, *, narrow: tuple[Array, Array]
) -> Block:
    """A block from what a shard stores.

    Args:
        text_input_ids, labels: (at most 4, n, max_sequence_length) uint8, the lowest bytes first; left out are zeros.
        loss_mask, key_padding_mask: (n, max_sequence_length) uint8.
        narrow: `modality_lengths` and `image_paths`.
    """
    width = max(len(text_input_ids), len(labels))
    planes = np.empty((2 * width + 2, *loss_mask.shape), dtype=np.uint8)
    for first, ids in enumerate((text_input_ids, labels)):
        planes[first : 2 * len(ids) : 2] = ids
        planes[first + 2 * len(ids) : -2 : 2] = 0
    planes[-2], planes[-1] = loss_mask, key_padding_mask
    return Block(planes, *narrow)


def gather(blocks: Sequence[Block], places: Sequence[int]) -> Block:
    """One row of each block, as a block of its own."""
    most = max((len(block.planes) for block in blocks), default=2)
    length = blocks[0].planes.shape[2] if blocks else 0
    planes = np.empty((most, len(blocks), length), dtype=np.uint8)
    for i, (block, place) in enumerate(zip(blocks, places, strict=True)):
        row = block.planes[:, place]
        if len(row) == most:
            planes[:, i] = row
        else:  # its ids are small: the bytes above are zero
            planes[: len(row) - 2, i], planes[len(row) - 2 : -2, i] = row[:-2], 0
            planes[-2:, i] = row[-2:]
    rows = list(zip(blocks, places, strict=True))
    lengths = np.array([block.modality_lengths[place] for block, place in rows], dtype=np.int32)
    return Block(planes, lengths, np.array([block.image_paths[place] for block, place in rows], dtype=bytes))
