"""Pixel values: bit-equal to the output of `CLIPImageProcessor` for every byte in every channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import needs_shared, shared_folder
from PIL import Image

torch = pytest.importorskip("torch", reason="the loaders need torch")

from clip_processor import clip_processor  # noqa: E402

from loaders.normalise import Normaliser  # noqa: E402
from preprocess.model_pixels import ModelPixels  # noqa: E402

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def processed(pixels: Any) -> Any:
    """(3, height, width) uint8 → float32, by the processor of transformers with nothing to resize or crop."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    nothing = {"do_resize": False, "do_center_crop": False}
    return clip_processor().preprocess(image, return_tensors="pt", **nothing)["pixel_values"][0]


def normalised(pixels: Any, dtype: Any) -> Any:
    out = torch.full(pixels.shape, float("nan"), dtype=dtype)
    Normaliser(dtype)(pixels, out)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pair_of_bytes_in_every_channel_equals_the_processor(dtype: Any) -> None:
    first, second = np.divmod(np.arange(65536), 256)
    pairs = np.stack([first, second], axis=-1).reshape(256, 512).astype(np.uint8)
    pixels = np.stack([pairs, pairs[::-1], pairs.T.reshape(256, 512)])
    assert torch.equal(normalised(pixels, dtype), processed(pixels).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [1, 2, 3, 15, 333])
def test_an_odd_number_of_pixels_equals_the_processor(dtype: Any, side: int) -> None:
    pixels = np.random.default_rng(side).integers(0, 256, (3, side, side), dtype=np.uint8)
    assert torch.equal(normalised(pixels, dtype), processed(pixels).to(dtype))


@needs_shared("images")
@pytest.mark.parametrize("dtype", DTYPES)
def test_real_images_equal_the_processor(dtype: Any) -> None:
    transform = ModelPixels(336, "pad")
    for path in sorted(shared_folder("images/coco/val2017").glob("*.jpg"))[:8]:
        pixels = transform(Image.open(path))
        assert torch.equal(normalised(pixels, dtype), processed(pixels).to(dtype)), path


def test_only_the_given_part_of_a_batch_is_written() -> None:
    pixels = np.full((3, 5, 5), 200, dtype=np.uint8)
    batch = torch.zeros((4, 3, 5, 5), dtype=torch.float32)
    Normaliser(torch.float32)(pixels, batch[2])
    assert torch.equal(batch[2], processed(pixels))
    assert not batch[[0, 1, 3]].any()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"image_dtype is torch\.int8"):
        Normaliser(torch.int8)
    pixels, normalise = np.zeros((3, 4, 4), dtype=np.uint8), Normaliser(torch.float16)
    batch = torch.zeros((3, 4, 8), dtype=torch.float16)
    for out in (batch, batch[..., ::2], torch.zeros((3, 4, 4))):
        with pytest.raises(ValueError, match=r"expected contiguous torch\.float16 of \(3, 4, 4\)"):
            normalise(pixels, out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_flushing_denormal_numbers_changes_nothing(dtype: Any) -> None:
    pixels = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16), (3, 16, 16)).copy()
    expected = normalised(pixels, dtype)
    torch.set_flush_denormal(True)
    try:
        assert torch.equal(normalised(pixels, dtype), expected)
    finally:
        torch.set_flush_denormal(False)
