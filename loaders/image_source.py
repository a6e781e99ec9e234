"""Where the images of rows come from: one small interface between a row's table of images and its pixels."""

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
    """Gives the pixels of an image that a row names."""

    def read(self, shard: int, image: StoredImage, out: torch.Tensor) -> None:
        """Write the pixels of one image into a part of a batch.

        Args:
            shard: number of the shard, over all datasets.
            image: its entry in the shard's table.
            out: (3, image_size, image_size), of the dtype of the batch.

        Raises:
            ImageError: it cannot be read.
        """

    def describe(self, shard: int, image: StoredImage) -> str:
        """The image in words, for messages."""


class ImageFiles:
    """Images are files in folders, named by `StoredImage.path`."""

    def __init__(self, folders: Mapping[int, Path], transform: ImageTransform) -> None:
        """`folders`: of each shard whose images are files."""
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
