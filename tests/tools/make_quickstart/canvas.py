"""The drawing surface of the quickstart images: smooth shapes and a built-in pixel font.

A font file, even Pillow's built-in one, is drawn by FreeType, whose pixels change from release to release. The example
must be reproducible everywhere, so its letters are drawn as squares.
"""

from collections.abc import Sequence

from PIL import Image, ImageDraw

COLORS: dict[str, tuple[int, int, int]] = {
    "black": (30, 30, 30),
    "gray": (140, 140, 140),
    "white": (255, 255, 255),
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 210, 30),
    "green": (44, 150, 60),
    "blue": (40, 90, 200),
    "purple": (128, 60, 170),
    "pink": (245, 150, 190),
    "brown": (125, 80, 45),
    "grass green": (130, 195, 95),
    "sand": (240, 215, 150),
    "light gray": (225, 225, 225),
    "light blue": (200, 228, 250),
    "light yellow": (255, 248, 205),
    "light green": (214, 240, 210),
}

# Glyphs are five squares wide and seven high, side by side with one empty column between them.
_ALPHABET = [
    (
        "ABCDEFGHIJKLM",
        """
.###. ####. .#### ####. ##### ##### .#### #...# .###. ..### #...# #.... #...#
#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #..#. #.... ##.##
#...# #...# #.... #...# #.... #.... #.... #...# ..#.. ...#. #.#.. #.... #.#.#
##### ####. #.... #...# ####. ####. #..## ##### ..#.. ...#. ##... #.... #.#.#
#...# #...# #.... #...# #.... #.... #...# #...# ..#.. ...#. #.#.. #.... #...#
#...# #...# #.... #...# #.... #.... #...# #...# ..#.. #..#. #..#. #.... #...#
#...# ####. .#### ####. ##### #.... .#### #...# .###. .##.. #...# ##### #...#
""",
    ),
    (
        "NOPQRSTUVWXYZ",
        """
#...# .###. ####. .###. ####. .#### ##### #...# #...# #...# #...# #...# #####
##..# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# #...# #...# ....#
#.#.# #...# #...# #...# #...# #.... ..#.. #...# #...# #...# .#.#. .#.#. ...#.
#..## #...# ####. #...# ####. .###. ..#.. #...# #...# #.#.# ..#.. ..#.. ..#..
#...# #...# #.... #.#.# #.#.. ....# ..#.. #...# #...# #.#.# .#.#. ..#.. .#...
#...# #...# #.... #..#. #..#. ....# ..#.. #...# .#.#. ##.## #...# ..#.. #....
#...# .###. #.... .##.# #...# ####. ..#.. .###. ..#.. #...# #...# ..#.. #####
""",
    ),
    (
        "0123456789",
        """
.###. ..#.. .###. ####. ...#. ##### .###. ##### .###. .###.
#...# .##.. #...# ....# ..##. #.... #.... ....# #...# #...#
#..## ..#.. ....# ....# .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ...#. .###. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. ..#.. ....# ##### ....# #...# ..#.. #...# ....#
#...# ..#.. .#... ....# ...#. #...# #...# ..#.. #...# ....#
.###. .###. ##### ####. ...#. .###. .###. ..#.. .###. .###.
""",
    ),
]


def _glyphs() -> dict[str, list[str]]:
    glyphs = {" ": ["....."] * 7}
    for letters, art in _ALPHABET:
        lines = [line.split(" ") for line in art.split("\n") if line]
        for place, letter in enumerate(letters):
            glyphs[letter] = [line[place] for line in lines]
    return glyphs


GLYPHS = _glyphs()


class Canvas:
    """An RGB image that is being drawn; all coordinates are in pixels of the finished image.

    Everything is drawn four times larger and averaged down at the end, which smooths the edges with whole-number
    arithmetic only.
    """

    OVERSAMPLING = 4

    def __init__(self, width: int, height: int, background: str) -> None:
        self.width, self.height = width, height
        size = (width * self.OVERSAMPLING, height * self.OVERSAMPLING)
        self._image = Image.new("RGB", size, COLORS[background])
        self._draw = ImageDraw.Draw(self._image)

    def _scaled(self, value: float) -> int:
        return round(value * self.OVERSAMPLING)

    def rectangle(self, left: float, top: float, right: float, bottom: float, color: str) -> None:
        """Fill the rectangle up to, not including, its right and bottom edge."""
        box = (self._scaled(left), self._scaled(top), self._scaled(right) - 1, self._scaled(bottom) - 1)
        self._draw.rectangle(box, fill=COLORS[color])

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, color: str) -> None:
        """Fill the ellipse around (x, y)."""
        box = (
            self._scaled(x - radius_x),
            self._scaled(y - radius_y),
            self._scaled(x + radius_x),
            self._scaled(y + radius_y),
        )
        self._draw.ellipse(box, fill=COLORS[color])

    def polygon(self, corners: Sequence[tuple[float, float]], color: str) -> None:
        """Fill the polygon with these corners."""
        self._draw.polygon([(self._scaled(x), self._scaled(y)) for x, y in corners], fill=COLORS[color])

    def text(self, x: float, y: float, text: str, scale: int = 1) -> None:
        """Write capital letters and digits in black, centred on x, with their top at y."""
        left = round(x - text_width(text, scale) / 2)
        for letter in text:
            for row, squares in enumerate(GLYPHS[letter]):
                for column, square in enumerate(squares):
                    if square == "#":
                        corner_x, corner_y = left + column * scale, y + row * scale
                        self.rectangle(corner_x, corner_y, corner_x + scale, corner_y + scale, "black")
            left += 6 * scale

    def finish(self) -> Image.Image:
        """Return the image at its final size."""
        return self._image.reduce(self.OVERSAMPLING)


def text_width(text: str, scale: int) -> int:
    """Width in pixels of a line of text, without the gap after its last letter."""
    return (6 * len(text) - 1) * scale
