"""The uint8 pixels of CLIP's input, equal to those of `transformers.CLIPImageProcessor` with Pillow."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import numpy.typing as npt

from preprocess.image_files import to_rgb
from preprocess.square_images import PAD_COLOUR, AspectRatio, pad_to_square

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage


class ModelPixels:
    """Pads, resizes and crops images as the LLaVA authors do for CLIP.

    `square` resizes the shorter edge to the size and crops the centre; `pad` first makes the image square with
    bars of the mean colour (`pad_to_square`). EXIF orientation is not applied, as in the authors' code.
    """

    def __init__(self, image_size: int, aspect_ratio: AspectRatio) -> None:
        """Set up.

        Args:
            image_size: edge of the result, in pixels.
            aspect_ratio: "square" or "pad".

        Raises:
            ValueError: another aspect ratio.
        """
        if aspect_ratio not in get_args(AspectRatio):
            raise ValueError(f"image_aspect_ratio is {aspect_ratio!r}, expected 'square' or 'pad'")
        self.image_size = image_size
        self.aspect_ratio = aspect_ratio

    def __call__(self, image: PillowImage) -> npt.NDArray[np.uint8]:
        """Transform an image of any mode: (3, image_size, image_size) uint8, contiguous."""
        pixels = np.asarray(self._resize(self._to_rgb(image)))
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _to_rgb(self, image: PillowImage) -> PillowImage:
        """Convert as the authors' `convert("RGB")`, their `expand2square` and the processor's conversion together.

        `convert` drops an alpha channel but keeps a transparent colour in `info`; transformers 5 then pastes the image
        on white. Padding makes a new image without that entry.
        """
        from PIL import Image

        rgb = to_rgb(image)
        gets_bars = self.aspect_ratio == "pad" and rgb.width != rgb.height
        if gets_bars or rgb.info.get("transparency") is None:
            return rgb
        white = Image.new("RGBA", rgb.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgb.convert("RGBA")).convert("RGB")

    def _resize(self, image: PillowImage) -> PillowImage:
        """Resize to (image_size, image_size).

        Pillow resizes in two passes and rounds to bytes between them. It takes the width first, unless an image is more
        than twice as tall as wide (Pillow 13). Running the passes one by one in this order gives the same bytes, and
        the area cropped between them is not computed.
        """
        from PIL import Image

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


def _resized(image: PillowImage, width: int, height: int) -> PillowImage:
    from PIL import Image

    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
