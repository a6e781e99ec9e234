"""Pad images to squares with the mean colour, as the LLaVA authors do before CLIP's image processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

# `square` crops the centre, `pad` adds bars on both sides of the shorter edge.
AspectRatio = Literal["square", "pad"]
# OPENAI_CLIP_MEAN of transformers.image_utils.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
# As `process_images` of haotian-liu/LLaVA, llava/mm_utils.py computes it.
PAD_COLOUR = tuple(int(x * 255) for x in CLIP_MEAN)


def pad_to_square(image: PillowImage, colour: tuple[int, ...] = PAD_COLOUR) -> PillowImage:
    """Centre the image in a square of its longer edge: `expand2square` of haotian-liu/LLaVA, llava/mm_utils.py.

    Args:
        image: an image whose mode fits `colour`.
        colour: colour of the bars, one byte per channel.
    """
    from PIL import Image

    width, height = image.size
    if width == height:
        return image
    edge = max(width, height)
    square = Image.new(image.mode, (edge, edge), colour)
    square.paste(image, ((edge - width) // 2, (edge - height) // 2))
    return square
