"""The samples of a batch in joint arrays, passed from the dataset to the collator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch

from loaders.blocks import TEXT_KEYS, Array, Block, StoredImage, make_block

Sample = dict[str, Any]


class WithoutLoss(int):
    """The number of a row that must be returned with its loss switched off."""


@dataclass(frozen=True)
class Samples(Sequence[Sample]):
    """Rows read together by `LlavaH5Dataset`; as a sequence, they are the samples that it describes.

    Attributes:
        rows: the text of the rows, not shared with any cache.
        are_free: whether a row can have any number of images at any position.
        image_failed: (images,) bool for each image, in row order.
        pixels: free rows: (images, 3, image_size, image_size) of each image; fixed rows: (rows, 3, image_size,
            image_size), zeros for rows without an image; None if no images are read.
    """

    rows: Block
    are_free: bool
    image_failed: Array
    pixels: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.rows.ids)

    @property
    def image_counts(self) -> Array:
        """Number of images of each row, (n,)."""
        return np.array([len(images) for images in self.rows.images], dtype=np.int64)

    @property
    def has_image(self) -> Array:
        """(n,) bool: whether a fixed row has an image that was read successfully."""
        found = self.image_counts > 0
        found[found] = ~self.image_failed
        return found

    @property
    def used_lengths(self) -> Array:
        """(n,) int: position after the last one that belongs to a sample."""
        return np.array([sum(lengths) for lengths in self.rows.lengths], dtype=np.int64)

    @overload
    def __getitem__(self, at: int) -> Sample: ...

    @overload
    def __getitem__(self, at: slice) -> list[Sample]: ...

    def __getitem__(self, at: int | slice) -> Sample | list[Sample]:
        """Return one sample, or several."""
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        i = range(len(self))[at]
        row = self.rows._replace(ids=self.rows.ids[i : i + 1], masks=self.rows.masks[i : i + 1])
        sample: Sample = {key: getattr(row, key)[0] for key in TEXT_KEYS}
        first = int(self.image_counts[:i].sum())
        images = slice(first, first + len(self.rows.images[i]))
        if self.are_free:
            sample["sample_lengths"] = np.array(self.rows.lengths[i], dtype=np.int32)
            for name in ("start", "slots"):
                places = [getattr(image, name) for image in self.rows.images[i]]
                sample[f"image_{name}"] = np.array(places, dtype=np.int32)
            sample["image_failed"] = self.image_failed[images]
        else:
            sample["has_image"] = bool(self.has_image[i])
            sample["used_length"] = int(self.used_lengths[i])
            sample["image_failed"] = bool(self.image_failed[images].any())
        for value in sample.values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
        if self.pixels is not None:
            sample["image_data"] = self.pixels[images if self.are_free else i]
        return sample

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Samples:
        """Join samples that were read one at a time."""
        if isinstance(samples, cls):
            return samples
        wide: dict[str, Array] = {key: np.stack([sample[key] for sample in samples]) for key in TEXT_KEYS}
        for key in ("text_input_ids", "labels"):
            items = np.ascontiguousarray(wide[key], dtype="<i4")
            wide[key] = np.moveaxis(items.view(np.uint8).reshape(*items.shape, 4), -1, 0)
        are_free = "sample_lengths" in samples[0]
        read = _free_tables if are_free else _fixed_tables
        tables = [read(sample) for sample in samples]
        rows = make_block(**wide, lengths=[row[0] for row in tables], images=[row[1] for row in tables])
        pixels = None
        if "image_data" in samples[0]:
            join = torch.cat if are_free else torch.stack
            pixels = join([sample["image_data"] for sample in samples])
        return cls(rows, are_free, np.array([flag for row in tables for flag in row[2]], dtype=bool), pixels)


_Tables = tuple[list[int], list[StoredImage], list[bool]]


def _free_tables(sample: Sample) -> _Tables:
    places = zip(sample["image_start"].tolist(), sample["image_slots"].tolist(), strict=True)
    images = [StoredImage(0, b"", start, slots) for start, slots in places]
    return sample["sample_lengths"].tolist(), images, sample["image_failed"].tolist()


def _fixed_tables(sample: Sample) -> _Tables:
    has_one = sample["has_image"] or sample["image_failed"]
    images = [StoredImage(0, b"", 0, 0)] if has_one else []
    return [sample["used_length"]], images, [sample["image_failed"]] * len(images)
