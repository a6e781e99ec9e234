"""Pixels: equal to the authors' steps with `CLIPImageProcessor`, called directly."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import needs_shared, shared_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

torch = pytest.importorskip("torch", reason="the loaders need torch")

from clip_processor import clip_processor  # noqa: E402
from written import IMAGES, PICTURES  # noqa: E402

from loaders.image_transform import ImageError, ImageTransform, read_image  # noqa: E402
from preprocess.images import ImageChecker  # noqa: E402
from preprocess.model_pixels import ModelPixels  # noqa: E402
from preprocess.rejects import Rejected  # noqa: E402
from preprocess.square_images import pad_to_square  # noqa: E402

SIZE = 336


@pytest.fixture(scope="module")
def processor() -> Any:
    return clip_processor(SIZE)


def authors_pixels(path: Path, aspect_ratio: str, processor: Any) -> Any:
    """`LazySupervisedDataset.__getitem__` of haotian-liu/LLaVA, llava/train/train.py, unchanged."""

    def expand2square(pil_img: Image.Image, background_color: tuple[int, ...]) -> Image.Image:
        width, height = pil_img.size
        if width == height:
            return pil_img
        if width > height:
            result = Image.new(pil_img.mode, (width, width), background_color)
            result.paste(pil_img, (0, (width - height) // 2))
            return result
        result = Image.new(pil_img.mode, (height, height), background_color)
        result.paste(pil_img, ((height - width) // 2, 0))
        return result

    image = Image.open(path).convert("RGB")
    if aspect_ratio == "pad":
        image = expand2square(image, tuple(int(x * 255) for x in processor.image_mean))
    pixels = processor.preprocess(image, return_tensors="pt")["pixel_values"][0]
    return pixels


def readable(path: Path) -> bool:
    try:
        Image.open(path).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for broken files
        return False
    return True


@pytest.mark.slow
@needs_shared("images")
@pytest.mark.parametrize("aspect_ratio", ["square", "pad"])
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.filterwarnings("ignore")
def test_readable_real_images_are_bit_equal_to_the_authors_pixels(aspect_ratio: Any, step: int, processor: Any) -> None:
    transforms = [ImageTransform(SIZE, aspect_ratio, dtype) for dtype in (torch.float32, torch.float16)]
    files = [path for path in sorted(shared_folder("images").rglob("*")) if path.is_file() and readable(path)]
    assert len(files) > 100
    for path in files[::step]:
        expected = authors_pixels(path, aspect_ratio, processor)
        for transform in transforms:
            pixels = read_image(path, transform)
            assert pixels.dtype == transform.dtype
            assert torch.equal(pixels, expected.to(transform.dtype)), f"{path}, {transform.dtype}"


@pytest.mark.slow
@needs_shared("images")
@pytest.mark.filterwarnings("ignore")
def test_an_image_that_pillow_cannot_read_is_an_image_error() -> None:
    transform = ImageTransform(SIZE, "square")
    files = [path for path in sorted(shared_folder("images/odd").rglob("*")) if path.is_file() and not readable(path)]
    assert len(files) > 10
    for path in files:
        with pytest.raises(ImageError):
            read_image(path, transform)


@pytest.mark.slow
@needs_shared("images")
@pytest.mark.filterwarnings("ignore")
def test_check_images_decode_accepts_exactly_the_images_that_the_loader_can_read() -> None:
    checker, transform = ImageChecker(shared_folder("images"), "decode"), ImageTransform(SIZE, "pad")
    outcomes = Counter[tuple[bool, bool]]()
    for path in sorted(shared_folder("images/odd").rglob("*")):
        if path.is_file():
            passes, reads = True, True
            try:
                checker.check(str(path.relative_to(shared_folder("images"))))
            except Rejected:
                passes = False
            try:
                read_image(path, transform)
            except ImageError:
                reads = False
            assert passes == reads, path
            outcomes[passes, reads] += 1
    assert outcomes[True, True] > 60
    assert outcomes[False, False] > 10


def test_postscript_is_not_passed_to_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was run"))
    with pytest.raises(ImageError, match="cannot identify the format"):
        read_image(path, ImageTransform(SIZE, "square"))


@pytest.mark.parametrize("target", ["pipe", "/dev/zero"])
def test_a_pipe_or_device_in_place_of_an_image_is_an_image_error(tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.png").symlink_to(target)
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "a.png", ImageTransform(SIZE, "square"))


@pytest.mark.slow
def test_the_limits_are_those_of_check_images_decode(tmp_path: Path) -> None:
    """Pillow alone only warns about so many pixels, and decodes every scan of a JPEG."""
    Image.new("1", (9460, 9459)).save(tmp_path / "large.png")
    scan = b"\xff\xda\x00\x02"
    Image.new("RGB", (8, 8)).save(tmp_path / "scans.jpg")
    data = (tmp_path / "scans.jpg").read_bytes()
    (tmp_path / "scans.jpg").write_bytes(data[:-2] + scan * 100 + data[-2:])
    for name, message in (("large.png", "DecompressionBombWarning"), ("scans.jpg", "101 scans, expected at most 100")):
        with pytest.raises(ImageError, match=message):
            read_image(tmp_path / name, ImageTransform(SIZE, "square"))


# One pixel more or less than the size, odd padding, very wide, very tall, enlarged, already the right size.
ODD_SIZES = [
    (336, 336),
    (337, 336),
    (336, 337),
    (335, 500),
    (501, 335),
    (1000, 37),
    (37, 1000),
    (2, 3),
    (1, 1),
    (672, 336),
]


@pytest.mark.slow
@pytest.mark.parametrize("size", ODD_SIZES)
@pytest.mark.parametrize("aspect_ratio", ["square", "pad"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "I;16"])
@pytest.mark.filterwarnings("ignore")
def test_unusual_sizes_and_modes_are_bit_equal_to_the_authors_pixels(
    size: tuple[int, int], aspect_ratio: Any, mode: str, processor: Any, tmp_path: Path
) -> None:
    noise = Image.frombytes("RGB", size, bytes(i * i * 7919 % 251 for i in range(size[0] * size[1] * 3)))
    image = noise.convert("L").convert("I").convert("I;16") if mode == "I;16" else noise.convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    expected = authors_pixels(path, aspect_ratio, processor)
    assert torch.equal(read_image(path, ImageTransform(SIZE, aspect_ratio, torch.float32)), expected)


@settings(max_examples=80, deadline=None)
@given(width=st.integers(1, 90), height=st.integers(1, 90), size=st.integers(1, 40), seed=st.integers(0, 9))
def test_resizing_in_two_passes_gives_the_same_bytes(width: int, height: int, size: int, seed: int) -> None:
    """For any image and size: equal to resizing the padded image, or to resizing and then cropping."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    short = min(width, height)
    wide, tall = (size if edge == short else int(size * edge / short) for edge in (width, height))
    left, top = (wide - size) // 2, (tall - size) // 2
    cropped = image.resize((wide, tall), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    padded = pad_to_square(image).resize((size, size), Image.Resampling.BICUBIC)
    for aspect_ratio, whole in (("square", cropped), ("pad", padded)):
        pixels = ModelPixels(size, aspect_ratio)(image)  # type: ignore[arg-type]
        assert np.array_equal(pixels, np.asarray(whole).transpose(2, 0, 1)), aspect_ratio


def test_bfloat16_is_float32_rounded_once() -> None:
    path = IMAGES / PICTURES[0]
    exact = read_image(path, ImageTransform(SIZE, "pad", torch.float32))
    assert torch.equal(read_image(path, ImageTransform(SIZE, "pad", torch.bfloat16)), exact.bfloat16())


@pytest.mark.parametrize("size", [224, 112, 333])
def test_other_image_sizes_are_bit_equal_to_the_authors_pixels(size: int) -> None:
    processor = clip_processor(size)
    for picture in PICTURES[:6]:
        expected = authors_pixels(IMAGES / picture, "pad", processor)
        assert torch.equal(read_image(IMAGES / picture, ImageTransform(size, "pad", torch.float32)), expected)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="image_aspect_ratio is 'anyres'"):
        ImageTransform(336, "anyres")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"image_dtype is torch\.int8"):
        ImageTransform(336, "pad", torch.int8)
