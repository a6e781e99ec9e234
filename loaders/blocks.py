"""Compact blocks of rows between the shards and a batch.

A block takes 6 bytes per position (with uint16 ids) instead of the 16 of a batch. Copying a row takes two copies, and
the rows of a batch are converted to int32 together.
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


class StoredImage(NamedTuple):
    """An entry of the table `images` of a shard.

    Attributes:
        number: index in that table.
        path: relative to the image folder, UTF-8.
        start: position of its first slot in the row.
        slots: number of slots.
    """

    number: int
    path: bytes
    start: int
    slots: int


class Block(NamedTuple):
    """n rows.

    Attributes:
        ids: (n, 2, max_sequence_length) uint16, or int32 if an id needs it: `text_input_ids` and `labels`.
        masks: (n, 2, max_sequence_length) uint8: `loss_mask` and `key_padding_mask`.
        lengths: for each row, the positions of its samples, which start at 0 and have no gaps.
        images: for each row, its images in order.
    """

    ids: Array
    masks: Array
    lengths: Sequence[list[int]]
    images: Sequence[list[StoredImage]]

    @property
    def text_input_ids(self) -> Array:
        """(n, max_sequence_length) int32."""
        return self.ids[:, 0].astype(np.int32)

    @property
    def labels(self) -> Array:
        """(n, max_sequence_length) int32."""
        return self.ids[:, 1].astype(np.int32)

    @property
    def loss_mask(self) -> Array:
        """(n, max_sequence_length) uint8."""
        mask: Array = self.masks[:, 0]
        return mask

    @property
    def key_padding_mask(self) -> Array:
        """(n, max_sequence_length) uint8."""
        mask: Array = self.masks[:, 1]
        return mask

    def text(self, length: int) -> Block:
        """Return the first `length` positions of each row, without lengths and images."""
        ids, masks = self.ids, self.masks
        if length < ids.shape[2]:
            ids, masks = (np.ascontiguousarray(array[:, :, :length]) for array in (ids, masks))
        return Block(ids, masks, (), ())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors of `TEXT_KEYS`, each (n, max_sequence_length) int32."""
        columns = (self.ids[:, 0], self.ids[:, 1], self.masks[:, 0], self.masks[:, 1])
        return dict(zip(TEXT_KEYS, (torch.from_numpy(column.astype(np.int32)) for column in columns), strict=True))


def make_block(
    text_input_ids: Array,
    labels: Array,
    loss_mask: Array,
    key_padding_mask: Array,
    *,
    lengths: Sequence[list[int]],
    images: Sequence[list[StoredImage]],
) -> Block:
    """Make a block from the arrays of a shard.

    Args:
        text_input_ids, labels: (2 to 4, n, max_sequence_length) uint8: the lowest bytes of all ids, then the next
            higher; omitted bytes are zero.
        loss_mask, key_padding_mask: (n, max_sequence_length) uint8.
        lengths, images: see `Block`.
    """
    rows, length = loss_mask.shape
    dtype = np.uint16 if max(len(text_input_ids), len(labels)) == 2 else np.uint32
    ids = np.empty((rows, 2, length), dtype=dtype)
    for column, planes in enumerate((text_input_ids, labels)):
        joined = ids[:, column]
        np.left_shift(planes[-1], 8, out=joined, dtype=dtype)
        for plane in planes[-2:0:-1]:
            np.bitwise_or(joined, plane, out=joined)
            np.left_shift(joined, 8, out=joined)
        np.bitwise_or(joined, planes[0], out=joined)
    masks = np.stack((loss_mask, key_padding_mask), axis=1)
    return Block(ids if dtype is np.uint16 else ids.view(np.int32), masks, lengths, images)


def gather(blocks: Sequence[Block], places: Sequence[int]) -> Block:
    """Copy one row of each block into a new block."""
    if not blocks:
        return Block(np.empty((0, 2, 0), np.uint16), np.empty((0, 2, 0), np.uint8), (), ())
    rows, length = len(blocks), blocks[0].ids.shape[2]
    ids = np.empty((rows, 2, length), dtype=np.result_type(*{block.ids.dtype for block in blocks}))
    masks = np.empty((rows, 2, length), dtype=np.uint8)
    for i, (block, place) in enumerate(zip(blocks, places, strict=True)):
        ids[i], masks[i] = block.ids[place], block.masks[place]
    pairs = list(zip(blocks, places, strict=True))
    return Block(
        ids, masks, [block.lengths[place] for block, place in pairs], [block.images[place] for block, place in pairs]
    )
