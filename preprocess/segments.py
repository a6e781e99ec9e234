"""The segments of a rendered conversation: texts with a supervised flag, special tokens, and image positions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple


class Text(NamedTuple):
    """A piece of text. Adjacent texts are tokenized as one text.

    `constant` texts belong to the template and are the same in every record.
    """

    text: str
    supervised: bool
    constant: bool = False


class Special(NamedTuple):
    """One added token of a tokenizer (`Tokenizer.require_token`). Text is never converted to one.

    `starts_text`: the text after it is tokenized as the start of a text, not as a continuation.
    """

    id: int
    supervised: bool = False
    starts_text: bool = False


class Mark(Enum):
    """Segments without text and without a fixed id: BOS and EOS, which some tokenizers lack, and image slots.

    The text after an IMAGE is tokenized as the start of a text, as the LLaVA authors do (`tokenizer_image_token`,
    haotian-liu/LLaVA, llava/mm_utils.py); the text after an IMAGE_TOKEN as the text after a special token, as
    transformers encodes a prompt that contains `<image>`.
    """

    BOS = "bos"
    EOS = "eos"  # always ends an answer, hence supervised
    IMAGE = "image"
    IMAGE_TOKEN = "image_token"


@dataclass(frozen=True, eq=False)
class ConstantSegments:
    """Adjacent segments of a template that are the same in every record, with a special token at both ends.

    They are encoded once per object, so a template must reuse the object for all records.
    """

    segments: tuple[Text | Special, ...]

    @cached_property
    def supervised(self) -> bool:
        """Whether the segments are supervised; all have the same flag."""
        return self.segments[0].supervised

    @cached_property
    def starts_text(self) -> bool:
        """The flag of the last segment, a special token."""
        last = self.segments[-1]
        return isinstance(last, Special) and last.starts_text


Segment = Text | Special | ConstantSegments | Mark
