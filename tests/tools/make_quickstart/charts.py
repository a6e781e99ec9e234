"""Bar charts. Each is a short table, and every answer is computed from that table."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from .canvas import Canvas, text_width
from .picture import NUMBER_WORDS, Picture, Round, listed, plural, sentence

MARGIN = 10
TITLE_HEIGHT = 26
LABEL_HEIGHT = 14


@dataclass(frozen=True)
class Bar:
    """One bar: its name in a sentence, its value and its colour. Its label is the name's first letters."""

    name: str
    value: int
    color: str


@dataclass(frozen=True)
class Chart:
    """A bar chart before it is drawn.

    `unit` is what one step of the value axis stands for ("cup"), `asks` names the questions, each a key of `ASKS` and
    its argument.
    """

    width: int
    height: int
    title: str
    unit: str
    is_horizontal: bool
    bars: tuple[Bar, ...]
    asks: tuple[str, ...]
    label_letters: int = 12

    def value(self, name: str) -> int:
        (bar,) = [b for b in self.bars if b.name == name]
        return bar.value

    def amount(self, value: int) -> str:
        return f"{value} {self.unit if value == 1 else plural(self.unit)}"

    def label(self, bar: Bar) -> str:
        return bar.name[: self.label_letters].upper()

    def draw(self) -> Image.Image:
        canvas = Canvas(self.width, self.height, "white")
        scale = 2 if text_width(self.title, 2) <= self.width - 2 * MARGIN else 1
        canvas.text(self.width / 2, 5, self.title.upper(), scale)
        if self.is_horizontal:
            self._draw_horizontal(canvas)
        else:
            self._draw_vertical(canvas)
        return canvas.finish()

    def _draw_vertical(self, canvas: Canvas) -> None:
        floor = self.height - LABEL_HEIGHT
        step = (self.width - 2 * MARGIN) / len(self.bars)
        # Ten pixels above the highest bar are for its number.
        unit_height = (floor - TITLE_HEIGHT - 10) / max(b.value for b in self.bars)
        for place, bar in enumerate(self.bars):
            middle = MARGIN + (place + 0.5) * step
            top = floor - bar.value * unit_height
            canvas.rectangle(middle - step * 0.35, top, middle + step * 0.35, floor, bar.color)
            canvas.text(middle, round(top) - 9, str(bar.value))
            canvas.text(middle, floor + 4, self.label(bar))
        canvas.rectangle(MARGIN, floor, self.width - MARGIN, floor + 1, "black")

    def _draw_horizontal(self, canvas: Canvas) -> None:
        label_width = max(text_width(self.label(b), 1) for b in self.bars)
        wall = MARGIN + label_width + 6
        step = (self.height - TITLE_HEIGHT - MARGIN) / len(self.bars)
        # The space after the longest bar is for its number.
        unit_width = (self.width - wall - MARGIN - 14) / max(b.value for b in self.bars)
        for place, bar in enumerate(self.bars):
            middle = TITLE_HEIGHT + (place + 0.5) * step
            right = wall + bar.value * unit_width
            canvas.rectangle(wall, middle - step * 0.35, right, middle + step * 0.35, bar.color)
            canvas.text(round(right) + 9, round(middle) - 3, str(bar.value))
            canvas.text(MARGIN + label_width / 2, round(middle) - 3, self.label(bar))
        canvas.rectangle(wall - 1, TITLE_HEIGHT, wall, self.height - MARGIN, "black")


def _end(chart: Chart, which: str) -> Round:
    ranked = sorted(chart.bars, key=lambda b: b.value, reverse=which == "highest")
    if ranked[0].value == ranked[1].value:
        raise ValueError(f"{chart.title}: two bars are the {which}")
    return f"Which bar has the {which} value?", f"{ranked[0].name} has the {which} value, {ranked[0].value}."


def _difference(chart: Chart, names: str) -> Round:
    first, second = names.split(",")
    more, less = sorted((first, second), key=chart.value, reverse=True)
    gap = chart.value(more) - chart.value(less)
    if gap == 0:
        answer = f"There is no difference: both stand at {chart.value(more)}."
    else:
        answer = f"{more} is ahead of {less} by {gap}: {chart.value(more)} - {chart.value(less)} = {gap}."
    return f"What is the difference between {first} and {second}?", answer


def _total(chart: Chart, _: str) -> Round:
    values = [b.value for b in chart.bars]
    return (
        f"How many {plural(chart.unit)} are there in all?",
        f"Adding the bars gives {' + '.join(map(str, values))} = {sum(values)} {plural(chart.unit)}.",
    )


def _above(chart: Chart, limit: str) -> Round:
    names = [b.name for b in chart.bars if b.value > int(limit)]
    question = f"Which bars have a value above {limit}?"
    if not names:
        return question, f"None of the bars has a value above {limit}."
    return question, f"{listed(names)} {'has' if len(names) == 1 else 'have'} a value above {limit}."


def _sorted(chart: Chart, _: str) -> Round:
    ranked = sorted(chart.bars, key=lambda b: b.value, reverse=True)
    lines = "\n".join(f"{place}. {bar.name}: {bar.value}" for place, bar in enumerate(ranked, start=1))
    return "List the bars from the highest to the lowest value.", lines


def _table(chart: Chart, _: str) -> Round:
    lines = "\n".join(f"| {bar.name} | {bar.value} |" for bar in chart.bars)
    return "Write the chart as a Markdown table.", f"| Name | {plural(chart.unit).capitalize()} |\n|---|---|\n{lines}"


ASKS: dict[str, Callable[[Chart, str], Round]] = {
    "value": lambda c, name: (
        f"What value does the chart give for {name}?",
        f"The bar for {name} stands at {c.amount(c.value(name))}.",
    ),
    "highest": lambda c, _: _end(c, "highest"),
    "lowest": lambda c, _: _end(c, "lowest"),
    "difference": _difference,
    "total": _total,
    "above": _above,
    "sorted": _sorted,
    "table": _table,
    "bars": lambda c, _: ("How many bars does the chart have?", f"It has {NUMBER_WORDS[len(c.bars)]} bars."),
    "title": lambda c, _: ("What is the title of this chart?", f'The title is "{c.title.upper()}".'),
    "color": lambda c, name: (
        f"What color is the bar for {name}?",
        f"It is {next(b.color for b in c.bars if b.name == name)}.",
    ),
}


def _bars(values: str, *colors: str) -> tuple[Bar, ...]:
    """Read "Tea 5, Milk 3"; the colours are used in turn."""
    bars = []
    for place, entry in enumerate(values.split(", ")):
        name, value = entry.rsplit(" ", 1)
        bars.append(Bar(name, int(value), colors[place % len(colors)]))
    return tuple(bars)


CHARTS = [
    Chart(
        240,
        180,
        "Cups of tea sold",
        "cup",
        False,
        _bars("Monday 4, Tuesday 7, Wednesday 3, Thursday 6, Friday 9", "blue"),
        ("value Tuesday", "highest", "lowest", "total"),
        label_letters=3,
    ),
    Chart(
        200,
        160,
        "Fruit in the bowl",
        "piece",
        False,
        _bars("Apples 5, Pears 2, Plums 8", "red", "green", "purple"),
        ("highest", "difference Plums,Apples", "color Pears"),
    ),
    Chart(
        280,
        160,
        "Books read",
        "book",
        True,
        _bars("Anna 12, Ben 7, Carla 9, David 4", "orange"),
        ("sorted", "difference Anna,Ben"),
    ),
    Chart(
        300,
        200,
        "Rainy days",
        "day",
        False,
        _bars("January 14, February 11, March 12, April 9, May 8, June 6", "blue"),
        ("lowest", "above 10", "value April"),
        label_letters=3,
    ),
    Chart(
        220,
        160,
        "Pets in our street",
        "pet",
        False,
        _bars("Dogs 6, Cats 8, Birds 3, Fish 5", "brown", "gray", "yellow", "blue"),
        ("total", "bars"),
    ),
    Chart(
        240,
        140,
        "Goals by team",
        "goal",
        True,
        _bars("Red 3, Blue 5, Green 1", "red", "blue", "green"),
        ("highest", "value Green", "difference Red,Blue"),
    ),
    Chart(
        160,
        200,
        "Votes",
        "vote",
        False,
        _bars("Yes 17, No 9", "green", "red"),
        ("difference Yes,No", "total", "title"),
    ),
    Chart(
        320,
        180,
        "Visitors",
        "visitor",
        False,
        _bars("Library 20, Museum 35, Park 50, Pool 40, Zoo 45", "purple", "orange"),
        ("table",),
    ),
    Chart(
        260,
        200,
        "Trees planted",
        "tree",
        True,
        _bars("Oak 15, Birch 10, Pine 25, Maple 5, Willow 10", "green"),
        ("highest", "difference Birch,Willow", "above 30"),
    ),
    Chart(
        200,
        200,
        "Hours of sleep",
        "hour",
        False,
        _bars("Cat 13, Dog 11, Cow 4, Horse 3", "gray", "brown", "pink", "orange"),
        ("lowest", "value Horse", "above 12"),
    ),
    Chart(
        240,
        160,
        "Rolls baked",
        "roll",
        False,
        _bars("White 30, Brown 24, Rye 12", "yellow", "brown", "gray"),
        ("sorted", "color White"),
    ),
    Chart(
        300,
        140,
        "Letters in a word",
        "letter",
        True,
        _bars("Sun 3, Cloud 5, Rainbow 7, Snow 4", "yellow", "gray", "purple", "blue"),
        ("total", "value Rainbow", "bars"),
    ),
]


def chart_pictures() -> list[Picture]:
    """Draw all charts and answer their questions."""
    pictures = []
    for number, chart in enumerate(CHARTS, start=1):
        rounds = []
        for ask in chart.asks:
            question, _, argument = ask.partition(" ")
            rounds.append(ASKS[question](chart, argument))
        names = listed([f"{bar.name} at {bar.value}" for bar in chart.bars])
        direction = "horizontal" if chart.is_horizontal else "vertical"
        caption = sentence(f'a bar chart titled "{chart.title.upper()}" with {direction} bars: {names}')
        pictures.append(
            Picture(path=f"charts/{number:04d}.png", image=chart.draw(), caption=caption, rounds=tuple(rounds))
        )
    return pictures
