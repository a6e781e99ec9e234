"""Rows of text as they are kept between a shard and a batch: ids as small as they are, gathered first, widened last.

A block takes 6 bytes for each position instead of the 16 of a batch, a row is two copies, and the rows of a whole batch
become int32 together.
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


class Block(NamedTuple):
    """n rows.

    Attributes:
        ids: (n, 2, max_sequence_length) uint16, or int32 where one needs it: `text_input_ids` and `labels`.
        masks: (n, 2, max_sequence_length) uint8: `loss_mask` and `key_padding_mask`.
        modality_lengths: (n,) int32.
        image_paths: (n,) bytes, empty for a text-only row.
    """

    ids: Array
    masks: Array
    modality_lengths: Array
    image_paths: Array

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

    def trimmed(self, length: int) -> Block:
        """The first `length` positions of each row."""
        if length == self.ids.shape[2]:
            return self
        ids, masks = (np.ascontiguousarray(array[:, :, :length]) for array in (self.ids, self.masks))
        return self._replace(ids=ids, masks=masks)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The four of `TEXT_KEYS`, each (n, max_sequence_length) int32."""
        columns = (self.ids[:, 0], self.ids[:, 1], self.masks[:, 0], self.masks[:, 1])
        return dict(zip(TEXT_KEYS, (torch.from_numpy(column.astype(np.int32)) for column in columns), strict=True))


def make_block(
    text_input_ids: Array, labels: Array, loss_mask: Array, key_padding_mask: Array, *, narrow: tuple[Array, Array]
) -> Block:
    """A block from what a shard stores.

    Args:
        text_input_ids, labels: (2 to 4, n, max_sequence_length) uint8: the lowest bytes of all ids, then the next;
            those left out are zeros.
        loss_mask, key_padding_mask: (n, max_sequence_length) uint8.
        narrow: `modality_lengths` and `image_paths`.
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
    return Block(ids if dtype is np.uint16 else ids.view(np.int32), masks, *narrow)


def gather(blocks: Sequence[Block], places: Sequence[int]) -> Block:
    """One row of each block, as a block of its own."""
    if not blocks:
        return Block(np.empty((0, 2, 0), np.uint16), np.empty((0, 2, 0), np.uint8), *np.zeros((2, 0), np.int32))
    rows, length = len(blocks), blocks[0].ids.shape[2]
    ids = np.empty((rows, 2, length), dtype=np.result_type(*{block.ids.dtype for block in blocks}))
    masks = np.empty((rows, 2, length), dtype=np.uint8)
    for i, (block, place) in enumerate(zip(blocks, places, strict=True)):
        ids[i], masks[i] = block.ids[place], block.masks[place]
    pairs = list(zip(blocks, places, strict=True))
    lengths = np.array([block.modality_lengths[place] for block, place in pairs], dtype=np.int32)
    return Block(ids, masks, lengths, np.array([block.image_paths[place] for block, place in pairs], dtype=bytes))
