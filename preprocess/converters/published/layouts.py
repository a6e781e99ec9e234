"""The layouts of instruction data on the Hub: their columns and how to read a row."""

# Sources (all on https://huggingface.co/datasets):
#   finevision    HuggingFaceM4/FineVision, its parts in several orders of columns and fields
#   cauldron      HuggingFaceM4/the_cauldron
#   llava         lmms-lab/LLaVA-OneVision-Data, LLaVA-ReCap-*
#   messages      HuggingFaceH4/llava-instruct-mix-vsft, and other datasets for TRL
#   caption       lmms-lab/LLaVA-One-Vision-1.5-Mid-Training-85M

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from preprocess.converters.core.canonical import IMAGE_TOKEN, ImageFile
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.published.dialogue import GPT, HUMAN, SYSTEM, Turn
from preprocess.rejects import Rejected, shorten

ID, IMAGE, TEXT = ROLES = ("id", "image", "text")
AUTO = "auto"
_SPEAKERS = {"human": HUMAN, "user": HUMAN, "gpt": GPT, "assistant": GPT, "system": SYSTEM}

Images = tuple[ImageFile, ...]
Read = Callable[[object, Images], tuple[list[Turn], Images]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout of published conversations.

    Args:
        name: the name for `--layout`.
        columns: role → possible column names; the first that exists is used.
        needed: the roles that the layout requires.
        read: the value of the text column, and the images of the row → turns, and images in the order of their tokens.
        tokens_at_head: images without a token in the text are put before it.
        rated: `*_ratings` and `*_min` columns rate the turns and distinguish it from a layout with the same columns.
    """

    name: str
    columns: Mapping[str, Sequence[str]]
    needed: Sequence[str]
    read: Read
    tokens_at_head: bool
    rated: bool = False

    def find(self, available: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
        """The column of each role that has one; `given` overrides the names of the layout."""
        found = {}
        for role, names in self.columns.items():
            name = given.get(role) or next((name for name in names if name in available), None)
            if name is not None:
                found[role] = name
        return found

    def fits(self, available: Sequence[str], given: Mapping[str, str]) -> bool:
        """Whether a file with these columns has this layout."""
        return set(self.needed) <= set(self.find(available, given)) and (
            not self.rated or any(name.endswith("_ratings") for name in available)
        )


def _texts(value: object, images: Images) -> tuple[list[Turn], Images]:
    """[{"user", "assistant"}, …]"""
    turns = []
    for number, pair in _objects(value, "texts"):
        turns.append(Turn(HUMAN, _string(pair.get("user"), f"user of turn {number}")))
        turns.append(Turn(GPT, _string(pair.get("assistant"), f"assistant of turn {number}")))
    return turns, images


def _conversations(value: object, images: Images) -> tuple[list[Turn], Images]:
    """[{"from", "value"}, …]"""
    turns = [
        Turn(_speaker(turn.get("from"), number), _string(turn.get("value"), f"value of turn {number}"))
        for number, turn in _objects(value, "conversations")
    ]
    return turns, images


def _messages(value: object, images: Images) -> tuple[list[Turn], Images]:
    """[{"role", "content"}, …]; content is a string or parts, {"type": "text", "text"}, {"type": "image", "index"}."""
    turns: list[Turn] = []
    places: list[int] = []
    for number, message in _objects(value, "messages"):
        content = message.get("content")
        if isinstance(content, str):
            text = content
        else:
            text = ""
            for _, part in _objects(content, f"content of turn {number}"):
                text = _joined(text, _part(part, number, len(images), places))
        turns.append(Turn(_speaker(message.get("role"), number), text))
    if not places:
        return turns, images
    if sum(turn.text.count(IMAGE_TOKEN) for turn in turns) != len(places):
        raise Rejected(
            SourceReason.IMAGE_TOKEN_IN_TEXT, f"the turns have image parts, and a text contains {IMAGE_TOKEN}"
        )
    if len(set(places)) != len(images):
        raise Rejected(
            SourceReason.IMAGE_TOKENS,
            f"the row has {len(images)} images, but image parts for {len(set(places))} of them",
        )
    return turns, tuple(images[place] for place in places)


def _part(part: Mapping[str, Any], number: int, images: int, places: list[int]) -> str:
    """The text of a part; the index of an image part is appended to `places`."""
    kind = part.get("type")
    if kind == "text":
        return _string(part.get("text"), f"text of a part of turn {number}")
    if kind != "image":
        found = shorten(kind) if isinstance(kind, str) else "missing"
        raise Rejected(
            SourceReason.BAD_TURN, f"a part of turn {number} has the type {found}, expected 'text' or 'image'"
        )
    index = part.get("index")
    place = len(places) if index is None else index
    if type(place) is not int or not 0 <= place < images:
        raise Rejected(
            SourceReason.IMAGE_TOKENS, f"a part of turn {number} has index {place!r:.20}, but there are {images} images"
        )
    places.append(place)
    return IMAGE_TOKEN


def _joined(text: str, part: str) -> str:
    """Concatenate texts; insert a line break between an image and a text, unless there is whitespace."""
    at_image = text.endswith(IMAGE_TOKEN) or part == IMAGE_TOKEN
    separated = not text or not part or text[-1].isspace() or part[0].isspace()
    return f"{text}\n{part}" if at_image and not separated else text + part


def _caption(value: object, images: Images) -> tuple[list[Turn], Images]:
    """A round with only the image as question and the caption as answer."""
    if not isinstance(value, str) or not value.strip():
        raise Rejected(SourceReason.NO_CAPTION, "the caption is missing or empty")
    if not images:
        raise Rejected(SourceReason.NO_IMAGE, "the row has no image")
    return [Turn(HUMAN, ""), Turn(GPT, value.strip())], images


_IMAGES = ("images", "image")
LAYOUTS = (
    Layout(
        name="finevision",
        columns={ID: ("id",), IMAGE: _IMAGES, TEXT: ("texts",)},
        needed=(IMAGE, TEXT),
        read=_texts,
        tokens_at_head=True,
        rated=True,
    ),
    Layout(
        name="cauldron",
        columns={ID: ("id",), IMAGE: _IMAGES, TEXT: ("texts",)},
        needed=(IMAGE, TEXT),
        read=_texts,
        tokens_at_head=True,
    ),
    Layout(
        name="llava",
        columns={ID: ("id",), IMAGE: _IMAGES, TEXT: ("conversations",)},
        needed=(TEXT,),
        read=_conversations,
        tokens_at_head=False,
    ),
    Layout(
        name="messages",
        columns={ID: ("id",), IMAGE: _IMAGES, TEXT: ("messages",)},
        needed=(TEXT,),
        read=_messages,
        tokens_at_head=True,
    ),
    Layout(
        name="caption",
        columns={ID: ("id",), IMAGE: _IMAGES, TEXT: ("caption",)},
        needed=(IMAGE, TEXT),
        read=_caption,
        tokens_at_head=True,
    ),
)
NAMES = tuple(layout.name for layout in LAYOUTS)


def find_layout(available: Sequence[str], given: Mapping[str, str]) -> Layout | None:
    """The first layout that fits these columns; `given` are the user's columns by role."""
    return next((layout for layout in LAYOUTS if layout.fits(available, given)), None)


def require_layout(available: Sequence[str], wanted: str, given: Mapping[str, str], where: str) -> Layout:
    """The layout of a file, given or detected.

    Args:
        available: the names of its columns.
        wanted: the name of a layout, or AUTO.
        given: the user's columns by role.
        where: names the file in the error.

    Raises:
        InputError: no layout fits, or a column is missing.
    """
    has = f"only {', '.join(available)}"
    for name in given.values():
        if name not in available:
            raise InputError(f"{where} has no column {name!r}, which --columns gives, {has}; correct --columns")
    layout = find_layout(available, given) if wanted == AUTO else next(each for each in LAYOUTS if each.name == wanted)
    if layout is None:
        raise InputError(
            f"{where} has the columns {', '.join(available)}, which match none of the layouts {', '.join(NAMES)}; "
            "give the closest one with --layout, and the names of its columns with --columns role=name"
        )
    for role in layout.needed:
        if role not in layout.find(available, given):
            names = " or ".join(map(repr, layout.columns[role]))
            raise InputError(
                f"{where} has no column {names}, which the layout {layout.name} requires, {has}; "
                f"give its name with --columns {role}=name"
            )
    return layout


def _objects(value: object, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a list, numbered from 1."""
    if not isinstance(value, list) or not value:
        found = "empty" if value == [] else type(value).__name__ if value is not None else "missing"
        raise Rejected(SourceReason.NO_TURNS, f"{name} is {found}, expected a list")
    for number, item in enumerate(value, 1):
        if not isinstance(item, dict):
            raise Rejected(
                SourceReason.BAD_TURN, f"element {number} of {name} is {type(item).__name__}, expected an object"
            )
        yield number, item


def _speaker(value: object, number: int) -> str:
    if not isinstance(value, str) or value not in _SPEAKERS:
        found = shorten(value) if isinstance(value, str) else "missing"
        raise Rejected(
            SourceReason.UNKNOWN_ROLE, f"the role of turn {number} is {found}, expected one of {', '.join(_SPEAKERS)}"
        )
    return _SPEAKERS[value]


def _string(value: object, name: str) -> str:
    if not isinstance(value, str):
        found = "missing" if value is None else type(value).__name__
        raise Rejected(SourceReason.BAD_TURN, f"{name} is {found}, expected text")
    return value
