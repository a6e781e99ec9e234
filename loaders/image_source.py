"""The interface that reads the pixels of images, and its implementation for image files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from loaders.blocks import StoredImage
from loaders.image_transform import ImageError, ImageTransform, read_image
from preprocess.image_files import is_inside


class ImageSource(Protocol):
    """Reads the pixels of the images of rows."""

    def read(self, shard: int, image: StoredImage, out: torch.Tensor) -> None:
        """Write the pixels of one image into a part of a batch.

        Args:
            shard: number of the shard, over all datasets.
            image: its entry in the table of the shard.
            out: (3, image_size, image_size), in the dtype of the batch.

        Raises:
            ImageError: it cannot be read.
        """

    def describe(self, shard: int, image: StoredImage) -> str:
        """Describe the image, for messages."""


class ImageFiles:
    """Reads images from files; `StoredImage.path` is relative to the folder of the dataset."""

    def __init__(self, folders: Mapping[int, Path], transform: ImageTransform) -> None:
        """`folders`: image folder of each shard whose images are files."""
        self._folders = folders
        self._transform = transform

    def read(self, shard: int, image: StoredImage, out: torch.Tensor) -> None:
        """See `ImageSource.read`."""
        path = image.path.decode()
        if not is_inside(path):
            raise ImageError("the path leads out of the folder")
        read_image(self._folders[shard] / path, partial(self._transform.into, out=out))

    def describe(self, shard: int, image: StoredImage) -> str:
        """See `ImageSource.describe`."""
        return f"image {image.path.decode()} in {self._folders[shard]}"
