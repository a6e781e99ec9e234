"""Thumbnails of images as the model sees them, as data URIs."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from preprocess.image_files import decode_rgb
from preprocess.images import ImageChecker
from preprocess.regular_files import open_regular
from preprocess.rejects import Rejected
from preprocess.square_images import AspectRatio, pad_to_square

_SIDE = 168


class Thumbnail(NamedTuple):
    """A picture as a data URI, or the problem that prevented it; `size` is (width, height) in pixels."""

    uri: str | None
    problem: str | None
    size: tuple[int, int] | None


class Thumbnails:
    """Makes thumbnails of the images in one folder, and never reads files outside it."""

    def __init__(self, image_dir: Path | None, aspect_ratio: AspectRatio) -> None:
        """`aspect_ratio`: `square` crops to the centre, `pad` adds bars of the mean colour."""
        self._checker = None if image_dir is None else ImageChecker(image_dir, "exists", max_names=0)
        self._root = "" if image_dir is None else os.path.realpath(image_dir)
        self._aspect_ratio = aspect_ratio

    def of(self, path: str) -> Thumbnail:
        """Return the thumbnail of an image by its path in the row."""
        if self._checker is None:
            return Thumbnail(None, "no image_dir is known; give it with --image-dir", None)
        try:
            self._checker.check(path)
        except Rejected as reject:
            return Thumbnail(None, f"{reject.reason.value}: {reject.detail}", None)

        def read() -> Image.Image:
            with open_regular(os.path.join(self._root, path)) as file:
                return decode_rgb(file)

        return self.made(read)

    def made(self, read: Callable[[], Image.Image]) -> Thumbnail:
        """Return the thumbnail of the image that `read` returns, or the error that it raises."""
        try:
            image = read()
            small = self._as_model_sees(image)
        except Exception as error:  # Pillow's plugins raise any exception on a broken file
            return Thumbnail(None, f"cannot be decoded: {type(error).__name__}", None)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=80, optimize=True)
        uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return Thumbnail(uri, None, image.size)

    def _as_model_sees(self, image: Image.Image) -> Image.Image:
        box = (_SIDE, _SIDE)
        if self._aspect_ratio == "pad":
            return pad_to_square(ImageOps.contain(image, box, Image.Resampling.BICUBIC))
        return ImageOps.fit(image, box, Image.Resampling.BICUBIC)
