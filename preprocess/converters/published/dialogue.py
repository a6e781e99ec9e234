"""A conversation with any number of turns and images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from preprocess.converters.core.canonical import IMAGE_TOKEN, ImageFile
from preprocess.converters.core.reasons import SourceReason
from preprocess.rejects import Rejected

HUMAN, GPT, SYSTEM = "human", "gpt", "system"


class Turn(NamedTuple):
    """One turn; `role` is HUMAN, GPT or SYSTEM."""

    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """A record with one image per image token, in order.

    `prefix` is the path of the image folder relative to the parent folder of all images, with a trailing slash, or
    empty.
    The same image may occur more than once.
    """

    id: str
    turns: Sequence[Turn]
    image_files: tuple[ImageFile, ...]
    prefix: str
    turns_left_out: int = 0

    def line(self) -> bytes:
        """The record as one line of JSON: `image` is one path, a list of several, or absent."""
        record: dict[str, object] = {"id": self.id}
        paths = [f"{self.prefix}{image.path}" for image in self.image_files]
        if paths:
            record["image"] = paths[0] if len(paths) == 1 else paths
        record["conversations"] = [{"from": turn.role, "value": turn.text} for turn in self.turns]
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def with_image_tokens(turns: Sequence[Turn], images: int, *, at_head: bool) -> list[Turn]:
    """The turns with an image token for each image.

    Args:
        turns: the turns in the source.
        images: the number of images. One image may have several tokens, which templates of LLaVA 1.5 merge.
        at_head: if no turn has a token, put all tokens before the first text of the user.

    Raises:
        Rejected: IMAGE_TOKEN_IN_TEXT (not in a turn of the user), NO_IMAGE or IMAGE_TOKENS (different numbers of tokens
            and images).
    """
    for number, turn in enumerate(turns, 1):
        if turn.role != HUMAN and IMAGE_TOKEN in turn.text:
            raise Rejected(
                SourceReason.IMAGE_TOKEN_IN_TEXT, f"turn {number} with the role {turn.role!r} contains {IMAGE_TOKEN}"
            )
    tokens = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if tokens == images or (images == 1 and tokens > 1):
        return list(turns)
    if not images:
        raise Rejected(SourceReason.NO_IMAGE, f"the turns contain {IMAGE_TOKEN}, but there is no image")
    first = next((number for number, turn in enumerate(turns) if turn.role == HUMAN), None)
    if tokens or not at_head or first is None:
        raise Rejected(
            SourceReason.IMAGE_TOKENS,
            f"found {images} images and {tokens} {IMAGE_TOKEN} in the user's turns, expected equal numbers",
        )
    text = turns[first].text
    head = "\n".join([IMAGE_TOKEN] * images + ([text] if text else []))
    return [*turns[:first], Turn(HUMAN, head), *turns[first + 1 :]]
