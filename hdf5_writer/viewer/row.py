"""A row for the viewer: its samples, their images and the content of each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RowImage:
    """An image of a sample.

    Attributes:
        path: relative to image_dir.
        start: position of its first slot in the row.
        slots: number of slots.
        content: (shard number, content number in the shard); the latter is -1 if the image file was not read.
        number: in the row, counted from 0.
    """

    path: str
    start: int
    slots: int
    content: tuple[int, int]
    number: int


@dataclass(frozen=True)
class RowSample:
    """A sample in its row.

    Attributes:
        number: in the row, counted from 0.
        file, line: its source; `file` as in `data_params.json`, `line` from 1.
        start, length: its positions in the row.
        images: in order.
        dummy_slots: (first position, number) of the masked slots of a fixed text-only row; otherwise None.
    """

    number: int
    file: str
    line: int
    start: int
    length: int
    images: tuple[RowImage, ...]
    dummy_slots: tuple[int, int] | None

    @property
    def source(self) -> str:
        """FILE:LINE."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        number: row number over all shards, from 0.
        samples: in order.
        text_input_ids, labels, loss_mask, key_padding_mask: (max_sequence_length,) as on disk.
        problems: violated invariants, in words.
    """

    number: int
    samples: tuple[RowSample, ...]
    text_input_ids: _Array
    labels: _Array
    loss_mask: _Array
    key_padding_mask: _Array
    problems: tuple[str, ...]

    @property
    def used(self) -> int:
        """Number of positions before the padding, including dummy slots of a text-only row."""
        return sum(sample.length for sample in self.samples)

    @property
    def images(self) -> int:
        """Number of images of all samples."""
        return sum(len(sample.images) for sample in self.samples)

    def supervised(self, sample: RowSample) -> int:
        """Return the number of supervised tokens of a sample."""
        return int(self.loss_mask[sample.start : sample.start + sample.length].sum())
