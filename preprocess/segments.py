"""What a rendered conversation is made of: texts with a supervised flag, special tokens, the places of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple


class Text(NamedTuple):
    """A piece of text. Neighbouring texts are one text for the tokenizer.

    `constant` texts are the template's own, the same in every record.
    """

    text: str
    supervised: bool
    constant: bool = False


class Special(NamedTuple):
    """One added token of a tokenizer (`Tokenizer.require_token`). No text ever becomes one.

    `starts_text`: the text behind it is the start of a text, not the continuation of one.
    """

    id: int
    supervised: bool = False
    starts_text: bool = False


class Mark(Enum):
    """What is neither text nor named by an id: BOS and EOS, which some tokenizers lack, and the image slots.

    The text behind an IMAGE is the start of a text, as the LLaVA authors encode it (`tokenizer_image_token`,
    haotian-liu/LLaVA, llava/mm_utils.py); the one behind an IMAGE_TOKEN goes on as behind a special token, as
    transformers encodes a prompt that holds `<image>`.
    """

    BOS = "bos"
    EOS = "eos"  # always the end of an answer, hence supervised
    IMAGE = "image"
    IMAGE_TOKEN = "image_token"


@dataclass(frozen=True, eq=False)
class Fixed:
    """Neighbouring segments of a template that are the same in every record, with a special token at both ends.

    They are encoded once for each such object, so a template makes one and uses it for all records.
    """

    segments: tuple[Text | Special, ...]

    @cached_property
    def supervised(self) -> bool:
        """Of all of them."""
        return self.segments[0].supervised

    @cached_property
    def starts_text(self) -> bool:
        """As of the special token at the end."""
        last = self.segments[-1]
        return isinstance(last, Special) and last.starts_text


Segment = Text | Special | Fixed | Mark


def unfolded(segments: Iterable[Segment]) -> list[Segment]:
    """The segments with what is `Fixed` in single ones."""
    found: list[Segment] = []
    for segment in segments:
        found += segment.segments if isinstance(segment, Fixed) else [segment]
    return found
