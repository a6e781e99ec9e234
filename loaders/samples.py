"""The rows of a batch side by side, on their way from the dataset to the collator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch

from loaders.blocks import TEXT_KEYS, Array, Block, make_block

Sample = dict[str, Any]


class WithoutLoss(int):
    """The number of a row that is asked for with its loss off."""


@dataclass(frozen=True)
class Samples(Sequence[Sample]):
    """Rows that `LlavaH5Dataset` read together: as a sequence, samples as it describes them.

    Attributes:
        text: the rows, belonging to no cache.
        has_image, image_failed: (n,) bool.
        used_lengths: (n,) int, the position behind the last one attended.
        images: n of (3, image_size, image_size), or None where no images are read.
    """

    text: Block
    has_image: Array
    image_failed: Array
    used_lengths: Array
    images: Sequence[torch.Tensor] | None

    def __len__(self) -> int:
        return len(self.has_image)

    @overload
    def __getitem__(self, at: int) -> Sample: ...

    @overload
    def __getitem__(self, at: slice) -> list[Sample]: ...

    def __getitem__(self, at: int | slice) -> Sample | list[Sample]:
        """One sample, or several."""
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        i = range(len(self))[at]
        row = self.text._replace(ids=self.text.ids[i : i + 1], masks=self.text.masks[i : i + 1])
        sample: Sample = {key: getattr(row, key)[0] for key in TEXT_KEYS}
        for array in sample.values():
            array.setflags(write=False)
        sample["has_image"] = bool(self.has_image[i])
        sample["used_length"] = int(self.used_lengths[i])
        sample["image_failed"] = bool(self.image_failed[i])
        if self.images is not None:
            sample["image_data"] = self.images[i]
        return sample

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Samples:
        """The same of samples that were taken one by one."""
        if isinstance(samples, cls):
            return samples
        wide: dict[str, Array] = {key: np.stack([sample[key] for sample in samples]) for key in TEXT_KEYS}
        for key in ("text_input_ids", "labels"):
            items = np.ascontiguousarray(wide[key], dtype="<i4")
            wide[key] = np.moveaxis(items.view(np.uint8).reshape(*items.shape, 4), -1, 0)
        return cls(
            text=make_block(**wide, narrow=(np.zeros(len(samples), np.int32), np.zeros(len(samples), bytes))),
            has_image=np.array([sample["has_image"] for sample in samples], dtype=bool),
            image_failed=np.array([sample["image_failed"] for sample in samples], dtype=bool),
            used_lengths=np.array([sample["used_length"] for sample in samples]),
            images=[sample["image_data"] for sample in samples] if "image_data" in samples[0] else None,
        )
