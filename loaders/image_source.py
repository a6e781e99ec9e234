"""Where the images of rows come from: one small interface between a row's table of images and its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from loaders.blocks import StoredImage
from loaders.image_transform import ImageError, ImageTransform, read_image
from preprocess.image_files import is_inside


class ImageSource(Protocol):
    """Gives the pixels of an image that a row names."""

    def read(self, shard: int, image: StoredImage) -> torch.Tensor:
        """Pixels of one image: (3, image_size, image_size).

        Args:
            shard: number of the shard, over all datasets.
            image: its entry in the shard's table.

        Raises:
            ImageError: it cannot be read.
        """

    def describe(self, shard: int, image: StoredImage) -> str:
        """The image in words, for messages."""


class ImageFiles:
    """Images are files in folders, named by `StoredImage.path`."""

    def __init__(self, folders: Sequence[Path], transform: ImageTransform) -> None:
        """`folders`: of each shard."""
        self._folders = folders
        self._transform = transform

    def read(self, shard: int, image: StoredImage) -> torch.Tensor:
        """See `ImageSource.read`."""
        path = image.path.decode()
        if not is_inside(path):
            raise ImageError("the path leads out of the folder")
        return read_image(self._folders[shard] / path, self._transform)

    def describe(self, shard: int, image: StoredImage) -> str:
        """See `ImageSource.describe`."""
        return f"image {image.path.decode()} in {self._folders[shard]}"
