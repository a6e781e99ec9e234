"""Convert messages whose content is a list of parts to text messages with image tokens."""

from __future__ import annotations

from typing import Any

from preprocess.record_images import read_images
from preprocess.record_keys import IMAGES, MEDIA_KEYS, RecordKeys
from preprocess.records import json_type
from preprocess.rejects import Reason, Rejected, shorten

# Keys for the path of an image part: in TRL's datasets, transformers' chat templates, and OpenAI's API.
_PATH_KEYS = ("image", "path", "url", "image_url")
_CALLS = ("tool_calls", "function_call")


def flatten_messages(record: dict[str, Any], keys: RecordKeys) -> dict[str, Any]:
    """Replace lists of parts by strings, and store the images that the parts name under `keys.image`.

    Each image part becomes an image token. If the text of the message contains image tokens already, those give the
    positions and the parts only name the images, as in XTuner's data.

    Raises:
        Rejected: a part is neither text nor image; only some image parts have a path or an index; the indices do not
            match the record's images; both the parts and the record name images; there is a tool call.
    """
    messages = record.get(keys.turns)
    if type(messages) is not list:
        return record  # `read_conversation` rejects it
    flat: list[Any] = []
    images: list[str | int | None] = []
    for number, message in enumerate(messages, start=1):
        if type(message) is dict:
            for name in _CALLS:
                if message.get(name):
                    raise Rejected(Reason.TOOL_TURN, f"turn {number} has {name!r}; tool calls are not supported")
            content = message.get(keys.content)
            if type(content) is list:
                text, named = _flatten(content, number, keys.image_token)
                message = message | {keys.content: text}
                images += named
        flat.append(message)
    if any(image is not None for image in images):
        return record | {IMAGES: None, keys.image: _named(images, read_images(record, keys)), keys.turns: flat}
    return record | {keys.turns: flat}


def _named(images: list[str | int | None], of_record: tuple[str, ...]) -> list[str]:
    """The paths of the image parts, which either all have a path or all have the index of an image of the record."""
    paths = [image for image in images if type(image) is str]
    numbers = [image for image in images if type(image) is int]
    if len(images) not in (len(paths), len(numbers)):
        raise Rejected(
            Reason.IMAGE_NOT_A_PATH,
            f"of {len(images)} image parts {len(paths)} have a path and {len(numbers)} an index, "
            "expected either a path or an index in every part",
        )
    if paths and of_record:
        raise Rejected(
            Reason.IMAGES_NAMED_TWICE, "both the record and its messages name images, expected only one of them"
        )
    if numbers and max(numbers) >= len(of_record):
        raise Rejected(
            Reason.TOKEN_WITHOUT_IMAGE,
            f"an image part has the index {max(numbers)}, but there are {len(of_record)} images",
        )
    if numbers and len(set(numbers)) < len(of_record):
        raise Rejected(
            Reason.IMAGE_WITHOUT_TOKEN,
            f"image parts have {len(set(numbers))} indices, but there are {len(of_record)} images",
        )
    return paths or [of_record[number] for number in numbers]


def _flatten(parts: list[Any], number: int, token: str) -> tuple[str, list[str | int | None]]:
    """The text of a message, and the path or index of the image of each image part."""
    texts: list[str] = []
    places: list[int] = []  # in `texts`, of the tokens of images
    images: list[str | int | None] = []
    for part in parts:
        kind = part.get("type") if type(part) is dict else None
        if kind == "text":
            text = part.get("text")
            if type(text) is not str:
                there = json_type(text) if "text" in part else "missing"
                raise Rejected(Reason.BAD_TURN, f"the text of a part of turn {number} is {there}, expected a string")
            texts.append(text)
        elif kind in ("image", "image_url"):
            images.append(_path(part, number))
            places.append(len(texts))
            texts.append(token)
        else:
            shown = shorten(kind) if type(kind) is str else "no type"
            is_media = type(kind) is str and kind.removeprefix("input_").removesuffix("_url") in MEDIA_KEYS
            raise Rejected(
                Reason.UNSUPPORTED_MEDIA if is_media else Reason.BAD_TURN,
                f"a part of turn {number} has {shown}, expected 'text', 'image' or 'image_url'",
            )
    text = "".join(texts)
    if images and text.count(token) > len(images):
        for place in places:
            texts[place] = ""
        text = "".join(texts)
    return text, images


def _path(part: dict[str, Any], number: int) -> str | int | None:
    """The path of an image part or, as in TRL's example data, its index among the record's images."""
    found = next((part[name] for name in _PATH_KEYS if part.get(name)), None)
    if type(found) is dict and found.get("url"):  # OpenAI's
        found = found["url"]
    if found is None and type(part.get("index")) is int and part["index"] >= 0:
        return int(part["index"])
    if type(found) is not str and found is not None:
        raise Rejected(
            Reason.IMAGE_NOT_A_PATH, f"an image part of turn {number} has {json_type(found)}, expected a path"
        )
    return found
