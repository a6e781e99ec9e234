"""An image file → the tensor that CLIP takes, equal bit for bit to `transformers.CLIPImageProcessor` on Pillow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image

from loaders.normalise import Normaliser
from preprocess.image_files import opened_image, what_was_said
from preprocess.model_pixels import ModelPixels
from preprocess.regular_files import open_regular
from preprocess.square_images import AspectRatio

_Made = TypeVar("_Made")


class ImageError(ValueError):
    """An image cannot be read at training time."""


class ImageTransform:
    """Resize, crop, rescale and normalise: `ModelPixels`, then `Normaliser`.

    Attributes:
        values: the second step alone.
    """

    def __init__(self, image_size: int, aspect_ratio: AspectRatio, dtype: torch.dtype = torch.float16) -> None:
        """Set up.

        Args:
            image_size: edge of the result, in pixels.
            aspect_ratio: "square" or "pad": see `ModelPixels`.
            dtype: float16, bfloat16 or float32.

        Raises:
            ValueError: another aspect ratio or dtype.
        """
        self.image_size = image_size
        self.dtype = dtype
        self._pixels = ModelPixels(image_size, aspect_ratio)
        self.values = Normaliser(dtype)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Transform an image of any mode: (3, image_size, image_size) of the dtype."""
        values = torch.empty((3, self.image_size, self.image_size), dtype=self.dtype)
        self.into(image, values)
        return values

    def into(self, image: Image.Image, out: torch.Tensor) -> None:
        """Transform an image of any mode into a tensor of that shape and dtype, such as a part of a batch."""
        self.values(self._pixels(image), out)

    def blank(self) -> torch.Tensor:
        """Zeros of the same shape and dtype, for a row without image."""
        return torch.zeros((3, self.image_size, self.image_size), dtype=self.dtype)


def read_image(path: Path, transform: Callable[[Image.Image], _Made]) -> _Made:
    """What is made of an image file, decoded within the limits of `check_images: decode`.

    Raises:
        ImageError: says what Pillow, or the file system, said.
    """
    try:
        with open_regular(path) as file, opened_image(file) as image:
            return transform(image)
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them to
        raise ImageError(what_was_said(error)) from None
