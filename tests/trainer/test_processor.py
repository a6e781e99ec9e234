"""The saved processor gives the pixels on which the model was trained."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from conftest import QUICKSTART

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from loaders.image_transform import ImageTransform  # noqa: E402
from trainer.params import Params  # noqa: E402
from trainer.processor import find_tokenizer, make_image_processor, make_processor  # noqa: E402
from trainer.prompt_tokenizer import image_token_id  # noqa: E402


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (40, 40)])
@pytest.mark.parametrize("aspect_ratio", ["square", "pad"])
def test_pixels_equal_those_of_the_loader_bit_for_bit(
    aspect_ratio: Literal["square", "pad"], size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    processor = make_image_processor({}, image_size=336, pad=aspect_ratio == "pad")
    pixels = processor(picture, return_tensors="pt")["pixel_values"][0]
    assert torch.equal(pixels, ImageTransform(336, aspect_ratio, torch.float32)(picture))


def test_settings_of_the_image_model_are_kept_and_the_others_are_those_of_clip() -> None:
    processor: Any = make_image_processor({"image_mean": [0.5, 0.5, 0.5]}, image_size=56, pad=True)
    assert list(processor.image_mean) == [0.5, 0.5, 0.5]
    assert list(processor.image_std) == [0.26862954, 0.26130258, 0.27577711]
    assert dict(processor.crop_size) == {"height": 56, "width": 56}


def test_a_prompt_has_one_image_token_for_each_patch_and_the_ids_of_the_tokenizer_around_it() -> None:
    from small import values

    tokenizer = find_tokenizer(Params.model_validate(values()).model, None)
    assert tokenizer is not None
    token = image_token_id(tokenizer)
    assert token == 1800
    images = make_image_processor({}, image_size=56, pad=False)
    picture = Image.open(QUICKSTART / "images" / "charts" / "0001.png")
    made = make_processor(tokenizer, images, patch_size=14)(images=picture, text="USER: <image>\nWhat? ASSISTANT:")
    ids = made["input_ids"][0]
    assert ids.count(token) == 16
    start = ids.index(token)
    assert ids[start : start + 16] == [token] * 16
    assert ids[:start] == tokenizer("USER: ").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[start + 16 :])[:2] == ["▁", "<0x0A>"], "as in rows"
