"""Pictures of coloured shapes. Each is a small map, and every answer is computed from that map."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from .canvas import Canvas
from .picture import NUMBER_WORDS, Picture, Round, counted, listed, plural, sentence, there_are, with_article

COLOR_CODES = {
    "r": "red",
    "o": "orange",
    "y": "yellow",
    "g": "green",
    "b": "blue",
    "p": "purple",
    "k": "black",
    "i": "pink",
    "n": "brown",
}
KIND_CODES = {"c": "circle", "s": "square", "t": "triangle", "d": "diamond", "x": "cross", "*": "star"}


@dataclass(frozen=True)
class Shape:
    """One shape on the map, by row and column; a small one fills less of its cell."""

    color: str
    kind: str
    row: int
    column: int
    is_small: bool

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}"


@dataclass(frozen=True)
class ShapeMap:
    """A picture of shapes before it is drawn.

    `rows` has one string for each row and one code for each cell: colour and kind ("rc" is a red circle), "-" behind
    it for a small one, ".." for an empty cell. `asks` names the questions, each a key of `ASKS` and its argument.
    """

    width: int
    height: int
    background: str
    arrangement: str
    rows: tuple[str, ...]
    asks: tuple[str, ...]

    @property
    def shapes(self) -> list[Shape]:
        return [
            Shape(COLOR_CODES[code[0]], KIND_CODES[code[1]], row, column, code.endswith("-"))
            for row, cells in enumerate(self.rows)
            for column, code in enumerate(cells.split())
            if code != ".."
        ]

    def only(self, description: str) -> Shape:
        """Find the one shape of this kind, this colour or this name."""
        (shape,) = [s for s in self.shapes if description in (s.kind, s.color, s.name)]
        return shape

    def count(self, description: str) -> int:
        return sum(description in (s.kind, s.color, s.name) for s in self.shapes)

    def draw(self) -> Image.Image:
        canvas = Canvas(self.width, self.height, self.background)
        cell_width = self.width / len(self.rows[0].split())
        cell_height = self.height / len(self.rows)
        for shape in self.shapes:
            radius = min(cell_width, cell_height) * (0.18 if shape.is_small else 0.38)
            x, y = (shape.column + 0.5) * cell_width, (shape.row + 0.5) * cell_height
            draw_shape(canvas, shape.kind, x, y, radius, shape.color)
        return canvas.finish()


def draw_shape(canvas: Canvas, kind: str, x: float, y: float, radius: float, color: str) -> None:
    """Draw one shape around (x, y) so that all kinds look about equally large."""
    if kind == "circle":
        canvas.ellipse(x, y, radius, radius, color)
    elif kind == "square":
        side = radius * 0.9
        canvas.rectangle(x - side, y - side, x + side, y + side, color)
    elif kind == "triangle":
        canvas.polygon([(x, y - radius), (x + radius, y + radius * 0.8), (x - radius, y + radius * 0.8)], color)
    elif kind == "diamond":
        canvas.polygon([(x, y - radius), (x + radius * 0.75, y), (x, y + radius), (x - radius * 0.75, y)], color)
    elif kind == "cross":
        arm = radius * 0.32
        canvas.rectangle(x - radius, y - arm, x + radius, y + arm, color)
        canvas.rectangle(x - arm, y - radius, x + arm, y + radius, color)
    else:
        canvas.polygon(star_corners(x, y, radius), color)


def star_corners(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Corners of a five-pointed star with one point up."""
    corners = []
    for step in range(10):
        reach = radius if step % 2 == 0 else radius * 0.45
        angle = math.radians(36 * step - 90)
        corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return corners


def groups(shapes: Sequence[Shape]) -> str:
    """Say which shapes there are, equal ones counted together, in reading order."""
    return listed([counted(count, name) for name, count in Counter(s.name for s in shapes).items()])


def _extreme(picture: ShapeMap, side: str) -> Round:
    place: Callable[[Shape], int] = {
        "left": lambda s: -s.column,
        "right": lambda s: s.column,
        "top": lambda s: -s.row,
        "bottom": lambda s: s.row,
    }[side]
    first, second = sorted(picture.shapes, key=place, reverse=True)[:2]
    if place(first) == place(second):
        raise ValueError(f"two shapes share the {side} of {picture.rows}")
    where = {"left": "farthest to the left", "right": "farthest to the right"}.get(side, f"at the {side}")
    name = f"the {first.name}" if picture.count(first.name) == 1 else with_article(first.name)
    return f"Which shape is {where}?", sentence(f"{name} is {where}")


def _neighbour(picture: ShapeMap, argument: str) -> Round:
    side, _, name = argument.partition(" ")
    row_step, column_step = {"right": (0, 1), "left": (0, -1), "above": (-1, 0), "below": (1, 0)}[side]
    where = {"right": "to the right of", "left": "to the left of"}.get(side, side)
    start = picture.only(name)
    target = (start.row + row_step, start.column + column_step)
    (found,) = [s for s in picture.shapes if (s.row, s.column) == target]
    return f"What is directly {where} the {name}?", sentence(f"{with_article(found.name)} is directly {where} it")


def _more(picture: ShapeMap, argument: str) -> Round:
    first, second = argument.split()
    many, few = sorted((first, second), key=picture.count, reverse=True)
    if picture.count(many) == picture.count(few):
        answer = f"Neither: there are {NUMBER_WORDS[picture.count(many)]} of each."
    else:
        answer = (
            f"There are more {plural(many)}: {counted(picture.count(many), many)}"
            f" and only {NUMBER_WORDS[picture.count(few)]} {few if picture.count(few) == 1 else plural(few)}."
        )
    return f"Are there more {plural(first)} or more {plural(second)}?", answer


def _is_there(picture: ShapeMap, name: str) -> Round:
    count = picture.count(name)
    if count == 0:
        answer = f"No, there is no {name} in this picture."
    else:
        answer = "Yes, there is one." if count == 1 else f"Yes, there are {NUMBER_WORDS[count]}."
    return f"Is there {with_article(name)} in this picture?", answer


def _how_many_are(picture: ShapeMap, color: str) -> Round:
    count = picture.count(color)
    how_many = NUMBER_WORDS[count] if count else "none"
    verb = "are" if count > 1 else "is"
    return f"How many of the shapes are {color}?", sentence(f"{how_many} of them {verb} {color}")


def _smaller(picture: ShapeMap, _: str) -> Round:
    small, _large = sorted(picture.shapes, key=lambda s: s.is_small, reverse=True)
    return "Which of the two shapes is smaller?", f"The {small.name} is smaller."


def _order(picture: ShapeMap, direction: str) -> Round:
    names = listed([with_article(s.name) for s in picture.shapes])
    return f"Name the shapes from {direction}.", sentence(f"from {direction}: {names}")


ASKS: dict[str, Callable[[ShapeMap, str], Round]] = {
    "total": lambda p, _: ("How many shapes are there in the picture?", there_are(len(p.shapes), "shape")),
    "count": lambda p, name: (f"How many {plural(name)} can you see?", there_are(p.count(name), name)),
    "how_many_are": _how_many_are,
    "color_of": lambda p, kind: (f"What color is the {kind}?", f"The {kind} is {p.only(kind).color}."),
    "kind_of": lambda p, color: (
        f"What shape is the {color} one?",
        f"The {color} one is {with_article(p.only(color).kind)}.",
    ),
    "background": lambda p, _: ("What color is the background?", f"The background is {p.background}."),
    "extreme": _extreme,
    "neighbour": _neighbour,
    "more": _more,
    "is_there": _is_there,
    "smaller": _smaller,
    "order": _order,
    "describe": lambda p, _: (
        "Describe this picture in one or two sentences.",
        f"The picture shows {groups(p.shapes)} {p.arrangement}. The background is {p.background}.",
    ),
}

MAPS = [
    ShapeMap(240, 120, "white", "in a row", ("rc bs yt",), ("order left to right", "color_of triangle")),
    ShapeMap(160, 160, "light gray", "one above the other", ("g*", "pd"), ("neighbour above diamond", "total")),
    ShapeMap(
        320,
        120,
        "light yellow",
        "in a row",
        ("bc bc rs bc bc",),
        ("how_many_are blue", "kind_of red", "neighbour left red square"),
    ),
    ShapeMap(
        200,
        200,
        "white",
        "scattered over the picture",
        ("rc .. rc", ".. bs ..", "rc .. bs"),
        ("count red circle", "count blue square", "more circle square"),
    ),
    ShapeMap(240, 160, "light blue", "side by side", ("os gc-",), ("smaller", "color_of square", "background")),
    ShapeMap(
        240,
        240,
        "white",
        "on a grid with an empty middle",
        ("kx kx kx", "kx .. kx", "kx kx kx"),
        ("describe", "total", "is_there red cross"),
    ),
    ShapeMap(
        160,
        240,
        "light green",
        "in a column",
        ("rt", "yt", "bt"),
        ("order top to bottom", "extreme top", "how_many_are green"),
    ),
    ShapeMap(
        320,
        200,
        "white",
        "in two rows",
        ("p* p* p* p*", "oc oc oc oc"),
        ("describe", "more star circle"),
    ),
    ShapeMap(
        256,
        192,
        "light gray",
        "in three of the four corners",
        ("rd ..", "bd yd"),
        ("neighbour above blue diamond", "neighbour right blue diamond", "is_there green diamond", "total"),
    ),
    ShapeMap(280, 120, "white", "in a row", ("is ks is ks",), ("count pink square", "extreme right")),
    ShapeMap(
        224,
        168,
        "light yellow",
        "scattered over the picture",
        ("gt .. .. gt", ".. nc .. ..", "gt .. gt .."),
        ("count green triangle", "kind_of brown", "more circle triangle"),
    ),
    ShapeMap(200, 160, "light blue", "in the middle", (".. .. ..", ".. y* ..", ".. .. .."), ("describe",)),
    ShapeMap(
        300,
        150,
        "white",
        "in a row",
        ("gc rx bt os",),
        ("order left to right", "kind_of blue", "extreme left", "is_there orange circle"),
    ),
    ShapeMap(
        180,
        180,
        "light green",
        "in two rows",
        ("rs bs", "bs rs"),
        ("how_many_are red", "describe"),
    ),
    ShapeMap(
        320,
        240,
        "white",
        "in three rows",
        ("yc yc yc yc", "bc bc bc ..", "rc rc .. .."),
        ("count yellow circle", "count blue circle", "count red circle", "total"),
    ),
]


def shape_pictures() -> list[Picture]:
    """Draw all maps and answer their questions."""
    pictures = []
    for number, spec in enumerate(MAPS, start=1):
        rounds = []
        for ask in spec.asks:
            question, _, argument = ask.partition(" ")
            rounds.append(ASKS[question](spec, argument))
        caption = sentence(f"{groups(spec.shapes)} {spec.arrangement} on a {spec.background} background")
        pictures.append(
            Picture(path=f"shapes/{number:04d}.png", image=spec.draw(), caption=caption, rounds=tuple(rounds))
        )
    return pictures
