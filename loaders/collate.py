"""Samples → a batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from loaders.samples import Sample, Samples


class Batch(dict[str, torch.Tensor]):
    """The tensors of a batch by name, and how many of its images failed and were left blank."""

    failed_images: int = 0


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
        batch = Batch(rows.text.tensors(self._trimmed_length(rows)))
        if self._ignore_index is not None:
            batch["labels"].masked_fill_(batch["loss_mask"] == 0, self._ignore_index)
        batch["has_image"] = torch.from_numpy(rows.has_image)
        if rows.images is not None:
            batch["image_data"] = torch.stack(list(rows.images))
        batch.failed_images = int(rows.image_failed.sum())
        return batch

    def _trimmed_length(self, rows: Samples) -> int:
        if self._trim_to is None:
            return self._length
        longest = max(self._image_end, int(rows.used_lengths.max()))
        return min(self._length, -(-longest // self._trim_to) * self._trim_to)
