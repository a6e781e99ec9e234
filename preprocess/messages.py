"""Messages whose content is a list of parts → messages of text, with image tokens where images stand."""

from __future__ import annotations

from typing import Any

from preprocess.record_images import read_images
from preprocess.record_keys import MEDIA_KEYS, RecordKeys
from preprocess.records import json_type
from preprocess.rejects import Reason, Rejected, shorten

# Where an image part has its path: in TRL's datasets, transformers' chat templates, and OpenAI's API.
_PATH_KEYS = ("image", "path", "url", "image_url")
_CALLS = ("tool_calls", "function_call")


def flatten_messages(record: dict[str, Any], keys: RecordKeys) -> dict[str, Any]:
    """A record of messages with texts for contents, and the images that parts name under `keys.image`.

    An image part is an image token where it stands. Where the texts of its message hold tokens already, those are the
    places, and the parts name the images only, as in XTuner's data.

    Raises:
        Rejected: a part that is neither text nor image, an image part without a path among others that have one,
            images named by parts and by the record too, a call of a tool.
    """
    messages = record.get(keys.turns)
    if type(messages) is not list:
        return record  # which the reader rejects
    flat: list[Any] = []
    images: list[str | None] = []
    for number, message in enumerate(messages, start=1):
        if type(message) is dict:
            for name in _CALLS:
                if message.get(name):
                    raise Rejected(Reason.TOOL_TURN, f"turn {number} has {name!r}, which no template here can hold")
            content = message.get(keys.content)
            if type(content) is list:
                text, named = _flatten(content, number, keys.image_token)
                message = message | {keys.content: text}
                images += named
        flat.append(message)
    if not images or images.count(None) == len(images):
        return record | {keys.turns: flat}
    if None in images:
        raise Rejected(
            Reason.IMAGE_NOT_A_PATH,
            f"{images.count(None)} of {len(images)} image parts have no path, expected one in each or in none",
        )
    if read_images(record, keys):
        raise Rejected(
            Reason.IMAGES_NAMED_TWICE, "both the record and its messages name images, expected one of them to"
        )
    return record | {keys.turns: flat, keys.image: images}


def _flatten(parts: list[Any], number: int, token: str) -> tuple[str, list[str | None]]:
    """The text of a message, and the path of each image part, None where it has none."""
    texts: list[str | None] = []  # None for an image
    images: list[str | None] = []
    for part in parts:
        kind = part.get("type") if type(part) is dict else None
        if kind == "text":
            text = part.get("text")
            if type(text) is not str:
                raise Rejected(Reason.BAD_TURN, f"a text part of turn {number} has {json_type(text)}, expected a text")
            texts.append(text)
        elif kind in ("image", "image_url"):
            images.append(_path(part, number))
            texts.append(None)
        else:
            shown = shorten(kind) if type(kind) is str else "no type"
            is_media = type(kind) is str and kind.removeprefix("input_").removesuffix("_url") in MEDIA_KEYS
            raise Rejected(
                Reason.UNSUPPORTED_MEDIA if is_media else Reason.BAD_TURN,
                f"a part of turn {number} has {shown}, expected 'text', 'image' or 'image_url'",
            )
    has_tokens = any(token in text for text in texts if text is not None)
    for_image = "" if has_tokens else token
    return "".join(for_image if text is None else text for text in texts), images


def _path(part: dict[str, Any], number: int) -> str | None:
    """What an image part names its image by."""
    found = next((part[name] for name in _PATH_KEYS if part.get(name)), None)
    if type(found) is dict and found.get("url"):  # OpenAI's
        found = found["url"]
    if type(found) is not str and found is not None:
        raise Rejected(
            Reason.IMAGE_NOT_A_PATH, f"an image part of turn {number} has {json_type(found)}, expected a path"
        )
    return found or None
