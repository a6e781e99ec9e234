"""Micro-batches of fixed and free batches: their rows, their images, and trimming."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from trainer.batch_stream import BatchStream, rows_of  # noqa: E402

ROWS, LENGTH = 4, 32


def free_batch() -> dict[str, Any]:
    """Rows with 2, 0, 1 and 0 images; the last slots of the longest row are masked, as after a failed image."""
    segments = torch.zeros(ROWS, LENGTH, dtype=torch.int32)
    segments[0, :9], segments[0, 9:13], segments[1, :5], segments[2, :12], segments[3, :3] = 1, 2, 1, 1, 1
    masked = (segments == 0).int()
    masked[0, 10:13] = 1
    return {
        "text_input_ids": torch.arange(ROWS * LENGTH).view(ROWS, LENGTH),
        "key_padding_mask": masked,
        "segment_ids": segments,
        "image_data": torch.arange(3.0)[:, None, None, None].expand(3, 3, LENGTH, LENGTH),
        "image_rows": torch.tensor([0, 0, 2], dtype=torch.int32),
        "image_starts": torch.tensor([1, 10, 4], dtype=torch.int32),
        "image_slots": torch.tensor([3, 3, 3], dtype=torch.int32),
    }


class OneBatch:
    def __iter__(self) -> Any:
        return iter([free_batch()])


def micro_batches(**options: Any) -> list[dict[str, Any]]:
    stream = BatchStream(OneBatch(), image_end=0, **options)  # type: ignore[arg-type]
    batches = iter(stream)
    return [next(batches) for _ in range(ROWS // (options["micro_batch_size"] or ROWS))]


def test_each_micro_batch_has_the_images_of_its_own_rows() -> None:
    one, other = micro_batches(micro_batch_size=2, trim_to=None)
    assert one["image_data"][:, 0, 0, 0].tolist() == [0, 1]
    assert one["image_rows"].tolist() == [0, 0]
    assert other["image_data"][:, 0, 0, 0].tolist() == [2]
    assert other["image_rows"].tolist() == [0], "counted from the first row of the micro-batch"
    assert other["image_starts"].tolist() == [4]
    assert other["text_input_ids"].tolist() == free_batch()["text_input_ids"][2:].tolist()


def test_a_micro_batch_without_images_has_an_empty_image_array() -> None:
    parts = micro_batches(micro_batch_size=1, trim_to=None)
    assert [len(part["image_data"]) for part in parts] == [2, 0, 1, 0]
    assert parts[3]["image_data"].shape == (0, 3, LENGTH, LENGTH)


def test_free_rows_are_trimmed_after_their_last_sample_even_if_its_end_is_masked() -> None:
    (batch,) = micro_batches(micro_batch_size=None, trim_to=4)
    assert batch["text_input_ids"].shape == batch["segment_ids"].shape == (ROWS, 16)
    assert batch["image_data"].shape == (3, 3, LENGTH, LENGTH)
    one, other = micro_batches(micro_batch_size=2, trim_to=1)
    assert one["segment_ids"].shape == (2, 13)
    assert other["segment_ids"].shape == (2, 12)


def test_each_row_of_a_fixed_batch_keeps_its_image() -> None:
    batch = {"text_input_ids": torch.arange(8).view(4, 2), "image_data": torch.arange(4.0).view(4, 1, 1, 1)}
    part = rows_of(batch, 1, 3)
    assert part["text_input_ids"].tolist() == [[2, 3], [4, 5]]
    assert part["image_data"].flatten().tolist() == [1, 2]
