"""The text that represents an image in a request: its captions and boxes.

The layout is that of the files `NNN_caps.txt` in https://github.com/haotian-liu/LLaVA, playground/data/prompts: one
caption per line, a blank line, one box per line, no line break after the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DECIMALS = 3
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Box:
    """An object and its box: (left, top, right, bottom) as fractions of the image's width and height."""

    category: str
    corners: Corners

    def line(self) -> str:
        """The line of the box, such as `bicycle: [0.287, 0.641, 0.507, 1.0]`, with Python's formatting of numbers."""
        return f"{self.category}: {list(self.corners)}"


def normalised(left: float, top: float, width: float, height: float, *, of: tuple[float, float]) -> Corners:
    """The corners of a COCO box.

    Args:
        left, top, width, height: in pixels, COCO's `bbox`.
        of: width and height of the image, in pixels.

    Returns:
        (left, top, right, bottom) as fractions, rounded to three decimals.
    """
    image_width, image_height = of
    corners = (left / image_width, top / image_height, (left + width) / image_width, (top + height) / image_height)
    # Adding 0.0 turns -0.0, a possible result of rounding, into 0.0.
    left, top, right, bottom = (round(value, DECIMALS) + 0.0 for value in corners)
    return left, top, right, bottom


def context(captions: Sequence[str], boxes: Sequence[Box]) -> str:
    """The last user message of a request: the captions and, if there are any, the boxes."""
    caption_lines = "\n".join(captions)
    box_lines = "\n".join(box.line() for box in boxes)
    return f"{caption_lines}\n\n{box_lines}" if box_lines else caption_lines
