"""An image file → the pixels that CLIP sees, equal bit for bit to the Pillow processor of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from preprocess.image_files import opened_image, what_was_said
from preprocess.regular_files import open_regular
from preprocess.square_images import CLIP_MEAN, PAD_COLOUR, AspectRatio, pad_to_square

# OPENAI_CLIP_STD of transformers.image_utils.
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_BITS: dict[torch.dtype, type[np.signedinteger[Any]]] = {
    torch.float16: np.int16,
    torch.bfloat16: np.int16,
    torch.float32: np.int32,
}


class ImageError(ValueError):
    """An image cannot be read at training time."""


class ImageTransform:
    """Resize, crop, rescale and normalise as the LLaVA authors do for CLIP.

    `square` resizes the shorter edge to the size and cuts out the centre; `pad` first makes the image square with
    bars of the mean colour (`pad_to_square`). EXIF orientation is not applied: the authors do not.
    """

    def __init__(self, image_size: int, aspect_ratio: AspectRatio, dtype: torch.dtype = torch.float16) -> None:
        """Set up.

        Args:
            image_size: edge of the result, in pixels.
            aspect_ratio: "square" or "pad".
            dtype: float16, bfloat16 or float32. The arithmetic is that of float32, rounded once at the end.

        Raises:
            ValueError: another aspect ratio or dtype.
        """
        if aspect_ratio not in get_args(AspectRatio):
            raise ValueError(f"image_aspect_ratio is {aspect_ratio!r}, expected 'square' or 'pad'")
        if dtype not in _BITS:
            raise ValueError(f"image_dtype is {dtype}, expected torch.float16, torch.bfloat16 or torch.float32")
        self.image_size = image_size
        self.aspect_ratio = aspect_ratio
        self.dtype = dtype
        bits = _BITS[dtype]
        table = torch.from_numpy(_normalised_values()).to(dtype)
        self._table: npt.NDArray[Any] = table.view(torch.int16 if bits is np.int16 else torch.int32).numpy()

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Transform an image of any mode: (3, image_size, image_size) of the dtype."""
        size = self.image_size
        pixels = np.asarray(self._resize(self._to_rgb(image)))
        values = np.empty((3, size, size), dtype=self._table.dtype)
        for channel in range(3):
            # A byte is below 256 anyway: "clip" only spares numpy the checked copy that "raise" makes.
            np.take(self._table[channel], pixels[:, :, channel], out=values[channel], mode="clip")
        return torch.from_numpy(values).view(self.dtype)

    def blank(self) -> torch.Tensor:
        """Zeros of the same shape and dtype, for a row without image."""
        return torch.zeros((3, self.image_size, self.image_size), dtype=self.dtype)

    def _to_rgb(self, image: Image.Image) -> Image.Image:
        """As the authors' `convert("RGB")`, their `expand2square` and the processor's own conversion together.

        A colour that is declared transparent survives `convert` in `info`, and transformers 5 then lays the image on
        white; bars make a new image, without it. An alpha channel does not survive `convert`.
        """
        rgb = image.convert("RGB")
        gets_bars = self.aspect_ratio == "pad" and rgb.width != rgb.height
        if gets_bars or rgb.info.get("transparency") is None:
            return rgb
        white = Image.new("RGBA", rgb.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgb.convert("RGBA")).convert("RGB")

    def _resize(self, image: Image.Image) -> Image.Image:
        """To (image_size, image_size).

        Pillow resizes in two passes, first the width, then the height, and rounds to bytes between them. Asking for
        the passes one by one gives the same bytes, and what falls away in between need not be computed.
        """
        size = self.image_size
        width, height = image.size
        if self.aspect_ratio == "pad" and width > height:
            # `pad_to_square` with bars above and below: a constant row stays constant when its width is resized.
            canvas = Image.new("RGB", (size, width), PAD_COLOUR)
            canvas.paste(_resized(image, size, height), (0, (width - height) // 2))
            return _resized(canvas, size, size)
        if self.aspect_ratio == "pad" and height > width:
            return _resized(pad_to_square(image), size, size)
        # get_resize_output_image_size of transformers: the longer edge is rounded down.
        if width <= height:
            tall = int(size * height / width)
            top = (tall - size) // 2
            return _resized(image, size, tall).crop((0, top, size, top + size))
        wide = int(size * width / height)
        left = (wide - size) // 2
        return _resized(_resized(image, wide, height).crop((left, 0, left + size, height)), size, size)


def read_image(path: Path, transform: Callable[[Image.Image], torch.Tensor]) -> torch.Tensor:
    """Decode and transform an image file, within the limits of `check_images: decode`: (3, image_size, image_size).

    Raises:
        ImageError: says what Pillow, or the file system, said.
    """
    try:
        with open_regular(path) as file, opened_image(file) as image:
            return transform(image)
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them to
        raise ImageError(what_was_said(error)) from None


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)


def _normalised_values() -> npt.NDArray[np.float32]:
    """What each byte becomes in each channel, (3, 256), in the dtypes and order of transformers.

    `rescale` multiplies in float64 and rounds to float32; `normalize` subtracts and divides in float32.
    """
    rescaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array(CLIP_MEAN, dtype=np.float32), np.array(CLIP_STD, dtype=np.float32)
    values: npt.NDArray[np.float32] = (rescaled - mean[:, None]) / std[:, None]
    return values
