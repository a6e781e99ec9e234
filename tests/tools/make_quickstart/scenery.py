"""How the scenes are built and drawn: houses, trees, boats and the sky above them."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from .canvas import Canvas
from .picture import with_article

HORIZON = 0.62
SKY_COLORS = {"day": "light blue", "evening": "pink", "night": "black"}
GROUND_COLORS = {"grass": "grass green", "water": "blue", "snow": "white", "sand": "sand"}

SKY_WORDS = {"day": "a light blue sky", "evening": "a pink evening sky", "night": "a dark night sky"}
GROUND_WORDS = {"grass": "on green grass", "water": "on blue water", "snow": "in the snow", "sand": "on yellow sand"}
IN_THE_SKY = {"sun", "moon", "star", "cloud", "balloon"}


@dataclass(frozen=True)
class Thing:
    """One object in a scene.

    `x` runs from 0 (left edge) to 1 (right edge). `color` is its main colour, `second_color` that of a house's roof or
    a boat's sail; `windows` is for houses.
    """

    kind: str
    x: float
    color: str = ""
    second_color: str = ""
    windows: int = 0

    @property
    def side(self) -> str:
        if 0.38 < self.x < 0.62:
            return "in the middle"
        return "on the left" if self.x < 0.5 else "on the right"

    @property
    def phrase(self) -> str:
        """Its description: "white house with a red roof"."""
        if self.kind == "house":
            return f"{self.color} house with {with_article(self.second_color)} roof"
        if self.kind == "boat":
            return f"{self.color} boat with {with_article(self.second_color)} sail"
        return f"{self.color} {self.kind}".strip()


@dataclass(frozen=True)
class Scene:
    """A scene before it is drawn; `asks` names the questions, each a key of `ASKS` and its argument."""

    width: int
    height: int
    time: str
    ground: str
    things: tuple[Thing, ...]
    asks: tuple[str, ...]

    def all_of(self, kind: str) -> list[Thing]:
        return [t for t in self.things if t.kind == kind]

    def only(self, kind: str) -> Thing:
        (thing,) = self.all_of(kind)
        return thing

    def draw(self) -> Image.Image:
        canvas = Canvas(self.width, self.height, SKY_COLORS[self.time])
        for thing in self.things:
            if thing.kind == "mountain":
                _draw_mountain(canvas, thing.x * self.width)
        canvas.rectangle(0, self.height * HORIZON, self.width, self.height, GROUND_COLORS[self.ground])
        for thing in self.things:
            if thing.kind != "mountain":
                DRAWERS[thing.kind](canvas, thing.x * self.width, thing)
        return canvas.finish()


def _draw_mountain(canvas: Canvas, x: float) -> None:
    base, half, peak = canvas.height * HORIZON, canvas.width * 0.24, canvas.height * 0.16
    canvas.polygon([(x - half, base), (x, peak), (x + half, base)], "gray")
    cap = 0.28
    snow_line = peak + (base - peak) * cap
    canvas.polygon([(x - half * cap, snow_line), (x, peak), (x + half * cap, snow_line)], "white")


def _draw_sun(canvas: Canvas, x: float, _: Thing) -> None:
    canvas.ellipse(x, canvas.height * 0.18, canvas.height * 0.1, canvas.height * 0.1, "yellow")


def _draw_moon(canvas: Canvas, x: float, _: Thing) -> None:
    radius, y = canvas.height * 0.11, canvas.height * 0.18
    canvas.ellipse(x, y, radius, radius, "light yellow")
    canvas.ellipse(x + radius * 0.6, y - radius * 0.15, radius * 0.85, radius * 0.85, "black")


def _draw_star(canvas: Canvas, x: float, _: Thing) -> None:
    # Stars further right are drawn a little lower, so that a row of them looks less regular.
    y, radius = canvas.height * (0.1 + 0.14 * (x / canvas.width)), canvas.height * 0.035
    canvas.polygon([(x, y - radius), (x + radius * 0.3, y), (x, y + radius), (x - radius * 0.3, y)], "white")
    canvas.polygon([(x - radius, y), (x, y - radius * 0.3), (x + radius, y), (x, y + radius * 0.3)], "white")


def _draw_cloud(canvas: Canvas, x: float, _: Thing) -> None:
    y, size = canvas.height * 0.2, canvas.height * 0.055
    for shift_x, shift_y, factor in [(-1.5, 0.4, 1.0), (0, 0, 1.4), (1.5, 0.4, 1.0)]:
        canvas.ellipse(x + shift_x * size, y + shift_y * size, size * factor * 1.3, size * factor, "white")


def _draw_house(canvas: Canvas, x: float, house: Thing) -> None:
    floor, half, wall = canvas.height * 0.78, canvas.height * 0.2, canvas.height * 0.26
    top = floor - wall
    canvas.rectangle(x - half, top, x + half, floor, house.color)
    roof = [(x - half * 1.2, top), (x, top - canvas.height * 0.16), (x + half * 1.2, top)]
    canvas.polygon(roof, house.second_color)
    canvas.rectangle(x - half * 0.18, floor - wall * 0.5, x + half * 0.18, floor, "brown")
    pane = half * 0.17
    for place in range(house.windows):
        middle = x + half * 1.7 * ((place + 0.5) / house.windows - 0.5)
        canvas.rectangle(middle - pane, top + wall * 0.12, middle + pane, top + wall * 0.12 + 2 * pane, "light blue")


def _draw_tree(canvas: Canvas, x: float, tree: Thing) -> None:
    floor, radius = canvas.height * 0.8, canvas.height * 0.13
    canvas.rectangle(x - radius * 0.22, floor - radius * 1.6, x + radius * 0.22, floor, "brown")
    canvas.ellipse(x, floor - radius * 2.2, radius, radius * 1.2, tree.color)


def _draw_boat(canvas: Canvas, x: float, boat: Thing) -> None:
    deck, half = canvas.height * 0.72, canvas.height * 0.2
    keel, keel_half, mast = deck + half * 0.5, half * 0.65, deck - half * 1.7
    canvas.polygon([(x - half, deck), (x + half, deck), (x + keel_half, keel), (x - keel_half, keel)], boat.color)
    canvas.rectangle(x - 1, mast, x + 1, deck, "black")
    foot = deck - half * 0.2
    canvas.polygon([(x + 2, mast), (x + 2, foot), (x + half * 0.9, foot)], boat.second_color)


def _draw_car(canvas: Canvas, x: float, car: Thing) -> None:
    floor, half = canvas.height * 0.86, canvas.height * 0.18
    shoulder, top = floor - half * 0.55, floor - half
    cabin = [(-0.6, shoulder), (-0.35, top), (0.35, top), (0.6, shoulder)]
    canvas.polygon([(x + reach * half, y) for reach, y in cabin], car.color)
    canvas.rectangle(x - half, shoulder, x + half, floor - half * 0.12, car.color)
    for window in (-0.2, 0.2):
        middle = x + window * half
        canvas.rectangle(middle - half * 0.14, top + half * 0.1, middle + half * 0.14, shoulder, "light blue")
    for wheel in (-0.55, 0.55):
        canvas.ellipse(x + wheel * half, floor - half * 0.12, half * 0.2, half * 0.2, "black")


def _draw_flower(canvas: Canvas, x: float, flower: Thing) -> None:
    y, size = canvas.height * 0.84, canvas.height * 0.03
    canvas.rectangle(x - 1, y, x + 1, y + size * 3.6, "green")
    for shift_x, shift_y in [(-1, 0), (1, 0), (0, -1), (0, 1)]:
        canvas.ellipse(x + shift_x * size, y + shift_y * size, size, size, flower.color)
    canvas.ellipse(x, y, size * 0.7, size * 0.7, "white")


def _draw_balloon(canvas: Canvas, x: float, balloon: Thing) -> None:
    y, radius = canvas.height * 0.28, canvas.height * 0.12
    taper = [(-0.9, 0.4), (0.9, 0.4), (0.2, 1.7), (-0.2, 1.7)]
    canvas.polygon([(x + across * radius, y + down * radius) for across, down in taper], balloon.color)
    canvas.ellipse(x, y, radius, radius, balloon.color)
    canvas.rectangle(x - radius * 0.28, y + radius * 1.8, x + radius * 0.28, y + radius * 2.2, "brown")


def _draw_snowman(canvas: Canvas, x: float, _: Thing) -> None:
    # Drawn in front of the sky, since a white figure is invisible on snow.
    floor, radius = canvas.height * 0.66, canvas.height * 0.11
    canvas.ellipse(x, floor - radius, radius, radius, "white")
    canvas.ellipse(x, floor - radius * 2.5, radius * 0.72, radius * 0.72, "white")
    canvas.rectangle(x - radius * 0.6, floor - radius * 3.2, x + radius * 0.6, floor - radius * 3, "black")
    canvas.rectangle(x - radius * 0.36, floor - radius * 3.8, x + radius * 0.36, floor - radius * 3, "black")
    for eye in (-0.25, 0.25):
        canvas.ellipse(x + eye * radius, floor - radius * 2.6, 1.5, 1.5, "black")


DRAWERS: dict[str, Callable[[Canvas, float, Thing], None]] = {
    "sun": _draw_sun,
    "moon": _draw_moon,
    "star": _draw_star,
    "cloud": _draw_cloud,
    "house": _draw_house,
    "tree": _draw_tree,
    "boat": _draw_boat,
    "car": _draw_car,
    "flower": _draw_flower,
    "balloon": _draw_balloon,
    "snowman": _draw_snowman,
}
