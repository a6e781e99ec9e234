"""What a rendered conversation is made of: texts with a supervised flag, special tokens, the places of images."""

from __future__ import annotations

from enum import Enum
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


Segment = Text | Special | Mark
