"""Transform image files to CLIP input tensors, bit-identical to `transformers.CLIPImageProcessor` on Pillow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image

from loaders.normalise import Normaliser
from preprocess.image_files import error_message, opened_image
from preprocess.model_pixels import ModelPixels
from preprocess.regular_files import open_regular
from preprocess.square_images import AspectRatio

T = TypeVar("T")


class ImageError(ValueError):
    """An image cannot be read at training time."""


class ImageTransform:
    """Resize, crop, rescale and normalise: `ModelPixels`, then `Normaliser`.

    Attributes:
        normalise: the second step only.
    """

    def __init__(self, image_size: int, aspect_ratio: AspectRatio, dtype: torch.dtype = torch.float16) -> None:
        """Set up.

        Args:
            image_size: side of the result in pixels.
            aspect_ratio: "square" or "pad": see `ModelPixels`.
            dtype: float16, bfloat16 or float32.

        Raises:
            ValueError: the aspect ratio or dtype is not supported.
        """
        self.image_size = image_size
        self.dtype = dtype
        self._pixels = ModelPixels(image_size, aspect_ratio)
        self.normalise = Normaliser(dtype)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Transform an image of any mode; return (3, image_size, image_size) in the dtype."""
        values = torch.empty((3, self.image_size, self.image_size), dtype=self.dtype)
        self.into(image, values)
        return values

    def into(self, image: Image.Image, out: torch.Tensor) -> None:
        """Transform an image of any mode into a tensor of that shape and dtype, such as a part of a batch."""
        self.normalise(self._pixels(image), out)

    def blank(self) -> torch.Tensor:
        """Return zeros of the same shape and dtype, for a row without an image."""
        return torch.zeros((3, self.image_size, self.image_size), dtype=self.dtype)


def read_image(path: Path, transform: Callable[[Image.Image], T]) -> T:
    """Decode an image file within the limits of `check_images: decode`, and return the result of `transform`.

    Raises:
        ImageError: with the message of Pillow or of the operating system.
    """
    try:
        with open_regular(path) as file, opened_image(file) as image:
            return transform(image)
    except Exception as error:  # Pillow's plugins can raise any exception for a damaged file
        raise ImageError(error_message(error)) from None
