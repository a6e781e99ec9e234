"""Simple scenes and questions about them. Every answer is computed from the list of drawn objects."""

from collections import Counter
from collections.abc import Callable

from .picture import NUMBER_WORDS, Picture, Round, counted, listed, plural, sentence, there_are, with_article
from .scenery import GROUND_WORDS, IN_THE_SKY, SKY_WORDS, Scene, Thing


def caption(scene: Scene) -> str:
    """Describe the objects and their positions; equal objects are counted."""
    land = [t for t in scene.things if t.kind not in IN_THE_SKY and t.kind != "mountain"]
    sky = [t for t in scene.things if t.kind in IN_THE_SKY]
    mountains = [t for t in scene.things if t.kind == "mountain"]
    text = f"{_groups(land)} {GROUND_WORDS[scene.ground]}"
    if mountains:
        text += f" in front of {_groups(mountains)}"
    return sentence(f"{text} under {_groups(sky) if sky else SKY_WORDS[scene.time]}")


def _groups(things: list[Thing]) -> str:
    return listed([counted_phrase(count, phrase) for phrase, count in Counter(t.phrase for t in things).items()])


def counted_phrase(count: int, phrase: str) -> str:
    """Say how many, with the plural on the noun: "two white houses with a red roof"."""
    noun, with_word, rest = phrase.partition(" with ")
    return counted(count, noun) + with_word + rest


def _is_there(scene: Scene, kind: str) -> Round:
    count = len(scene.all_of(kind))
    if count == 0:
        answer = f"No, there is no {kind} in the picture."
    else:
        answer = "Yes, there is one." if count == 1 else f"Yes, there are {NUMBER_WORDS[count]}."
    return f"Is there {with_article(kind)} in the picture?", answer


def _where(scene: Scene, kind: str) -> Round:
    return f"Where is the {kind}?", f"The {kind} is {scene.only(kind).side}."


def _time(scene: Scene, _: str) -> Round:
    answers = {
        "day": "It is day: the sky is light blue.",
        "evening": "It is evening: the sky is pink.",
        "night": "It is night: the sky is dark.",
    }
    return "Is it day, evening or night in this picture?", answers[scene.time]


def _nearest(scene: Scene, kind: str) -> Round:
    start = scene.only(kind)
    others = [t for t in scene.things if t is not start and t.kind not in IN_THE_SKY and t.kind != "mountain"]
    first, *rest = sorted(others, key=lambda t: abs(t.x - start.x))
    if rest and abs(rest[0].x - start.x) - abs(first.x - start.x) < 0.1:
        raise ValueError(f"two things are about equally near to the {kind}")
    return f"What stands next to the {kind}?", f"{sentence(with_article(first.phrase))[:-1]} stands next to it."


def _left_to_right(scene: Scene, _: str) -> Round:
    land = sorted((t for t in scene.things if t.kind not in IN_THE_SKY), key=lambda t: t.x)
    lines = "\n".join(f"- {with_article(t.phrase)}" for t in land)
    place = "water" if scene.ground == "water" else "ground"
    return f"List the things on the {place} from left to right.", lines


def _detail(scene: Scene, _: str) -> Round:
    places = []
    for kind in dict.fromkeys(t.kind for t in scene.things):
        things = scene.all_of(kind)
        if len(things) == 1:
            places.append(f"{with_article(things[0].phrase)} {things[0].side}")
        else:
            places.append(_groups(things))
    setting = {
        "grass": "a field of green grass",
        "water": "blue water",
        "snow": "a field of snow",
        "sand": "a sandy beach",
    }[scene.ground]
    is_or_are = "are" if len(scene.all_of(scene.things[0].kind)) > 1 else "is"
    return (
        "Describe the picture in detail.",
        f"The picture shows {setting} under {SKY_WORDS[scene.time]}. There {is_or_are} {listed(places)}.",
    )


ASKS: dict[str, Callable[[Scene, str], Round]] = {
    "count": lambda s, kind: (f"How many {plural(kind)} are there?", there_are(len(s.all_of(kind)), kind)),
    "is_there": _is_there,
    "where": _where,
    "time": _time,
    "color": lambda s, kind: (f"What color is the {kind}?", f"The {kind} is {s.only(kind).color}."),
    "roof": lambda s, _: ("What color is the roof?", f"The roof is {s.only('house').second_color}."),
    "sail": lambda s, _: ("What color is the sail?", f"The sail is {s.only('boat').second_color}."),
    "windows": lambda s, _: (
        "How many windows does the house have?",
        f"The house has {counted(s.only('house').windows, 'window').replace('a window', 'one window')}.",
    ),
    "nearest": _nearest,
    "left_to_right": _left_to_right,
    "detail": _detail,
}

SUN_LEFT, SUN_RIGHT = Thing("sun", 0.16, "yellow"), Thing("sun", 0.84, "yellow")

SCENES = [
    Scene(
        240,
        180,
        "day",
        "grass",
        (Thing("house", 0.5, "white", "red", 2), Thing("tree", 0.16, "green"), SUN_RIGHT),
        ("roof", "where sun", "windows"),
    ),
    Scene(
        320,
        200,
        "day",
        "water",
        (Thing("boat", 0.3, "brown", "white"), SUN_RIGHT, Thing("cloud", 0.55, "white")),
        ("sail", "where boat", "is_there house"),
    ),
    Scene(
        200,
        200,
        "night",
        "grass",
        (
            Thing("house", 0.68, "orange", "purple", 1),
            Thing("moon", 0.2, "pale"),
            Thing("star", 0.42, "white"),
            Thing("star", 0.62, "white"),
            Thing("star", 0.82, "white"),
        ),
        ("time", "count star", "where moon"),
    ),
    Scene(
        320,
        180,
        "day",
        "grass",
        (Thing("tree", 0.14, "green"), Thing("tree", 0.38, "green"), Thing("tree", 0.62, "green"), SUN_RIGHT),
        ("count tree", "is_there car"),
    ),
    Scene(
        240,
        160,
        "day",
        "sand",
        (Thing("car", 0.7, "red"), Thing("tree", 0.2, "green"), Thing("cloud", 0.5, "white")),
        ("color car", "nearest car", "count cloud"),
    ),
    Scene(
        300,
        220,
        "day",
        "grass",
        (
            Thing("mountain", 0.28, "gray"),
            Thing("mountain", 0.62, "gray"),
            Thing("house", 0.8, "yellow", "brown", 2),
            Thing("sun", 0.45, "yellow"),
        ),
        ("detail", "count mountain"),
    ),
    Scene(
        200,
        160,
        "evening",
        "water",
        (Thing("boat", 0.25, "black", "red"), Thing("boat", 0.75, "white", "orange")),
        ("time", "count boat", "left_to_right"),
    ),
    Scene(
        240,
        200,
        "day",
        "snow",
        (Thing("snowman", 0.3, "white"), Thing("tree", 0.75, "green")),
        ("is_there snowman", "nearest snowman", "is_there flower"),
    ),
    Scene(
        320,
        160,
        "day",
        "grass",
        (
            Thing("flower", 0.12, "red"),
            Thing("flower", 0.3, "purple"),
            Thing("flower", 0.48, "red"),
            Thing("flower", 0.66, "blue"),
            Thing("flower", 0.84, "red"),
            SUN_LEFT,
        ),
        ("count flower", "left_to_right"),
    ),
    Scene(
        180,
        240,
        "day",
        "grass",
        (Thing("balloon", 0.5, "red"), Thing("tree", 0.2, "green"), Thing("tree", 0.82, "green")),
        ("color balloon", "where balloon", "count tree"),
    ),
    Scene(
        280,
        180,
        "evening",
        "grass",
        (Thing("car", 0.25, "blue"), Thing("house", 0.72, "white", "gray", 3), Thing("cloud", 0.3, "white")),
        ("color car", "windows", "roof", "time"),
    ),
    Scene(
        256,
        256,
        "night",
        "water",
        (Thing("boat", 0.5, "red", "yellow"), Thing("moon", 0.82, "pale"), Thing("star", 0.2, "white")),
        ("detail", "color boat"),
    ),
    Scene(
        320,
        240,
        "day",
        "grass",
        (
            Thing("house", 0.2, "pink", "blue", 2),
            Thing("tree", 0.5, "orange"),
            Thing("car", 0.8, "green"),
            Thing("cloud", 0.4, "white"),
            Thing("cloud", 0.75, "white"),
        ),
        ("color tree", "nearest house", "left_to_right"),
    ),
]


def scene_pictures() -> list[Picture]:
    """Draw all scenes and answer their questions."""
    pictures = []
    for number, scene in enumerate(SCENES, start=1):
        rounds = []
        for ask in scene.asks:
            question, _, argument = ask.partition(" ")
            rounds.append(ASKS[question](scene, argument))
        pictures.append(
            Picture(path=f"scenes/{number:04d}.png", image=scene.draw(), caption=caption(scene), rounds=tuple(rounds))
        )
    return pictures
