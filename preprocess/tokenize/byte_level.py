"""Byte-level BPE with the pipeline of `tokenizers`, and with `tiktoken` after `_WORDS_BEFORE_TIKTOKEN` words.

tiktoken encodes a new word three times as fast. It is used where both give the same ids: for a vocabulary on which they
agree, and for characters that every version of Unicode classifies alike.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from preprocess.tokenize.backends import JsonModelBackend

# Words encoded by `tokenizers` before tiktoken is set up. The set-up costs about as much as encoding this many words.
_WORDS_BEFORE_TIKTOKEN = 100_000


class ByteLevelBackend(JsonModelBackend):
    """The pipeline of a `tokenizers.Tokenizer` without added tokens, so that no text is encoded to one."""

    def __init__(self, tokenizer: Any, pattern: str | None) -> None:
        """`pattern`: regular expression of the pre-tokenizer; None if `pattern_splitter` does not know it."""
        super().__init__(tokenizer)
        self._pattern = pattern
        self._words = 0
        self._tiktoken: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tiktoken": None, "_words": 0}

    def encode(self, piece: str) -> list[int]:
        if self._tiktoken is not None and is_version_independent(piece):
            ids: list[int] = self._tiktoken.encode_ordinary(piece)
            return ids
        before, self._words = self._words, self._words + max(1, piece.count(" "))
        if before < _WORDS_BEFORE_TIKTOKEN <= self._words and self._pattern is not None:
            self._tiktoken = tiktoken_encoding(self._tokenizer, self._pattern)
        ids = self._tokenizer.encode(piece, add_special_tokens=False).ids
        return ids

    def encode_with_starts(self, text: str) -> tuple[list[int], list[int]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    def measure(self, text: str) -> int:
        return len(text)


def tiktoken_encoding(tokenizer: Any, pattern: str) -> Any:
    """Make a `tiktoken.Encoding` of a `tokenizers.Tokenizer`; None if the ids of its vocabulary differ."""
    import tiktoken

    # Characters that represent no byte are mapped to one outside Latin-1.
    to_latin = dict.fromkeys(range(256), "\u0100") | {ord(char): chr(byte) for char, byte in byte_alphabet().items()}
    vocabulary: Mapping[str, int] = tokenizer.get_vocab(with_added_tokens=False)
    ranks = {}
    for piece, id_ in vocabulary.items():
        with suppress(UnicodeEncodeError):
            ranks[piece.translate(to_latin).encode("latin-1")] = id_
    if not all(bytes((byte,)) in ranks for byte in range(256)):
        return None
    encoding = tiktoken.Encoding("", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    text = "".join(filter(is_version_independent, (piece.decode(errors="ignore") for piece in ranks)))
    if not is_version_independent(text):  # NFC composes adjacent characters
        text = unicodedata.normalize("NFC", text)
    agree = encoding.encode_ordinary(text) == tokenizer.encode(text, add_special_tokens=False).ids
    return encoding if agree else None


def is_version_independent(text: str) -> bool:
    """Whether all Unicode versions since 3.2 (2002) classify the characters alike and NFC leaves the text unchanged."""
    if text.isascii():
        return True
    if not _independent.issuperset(text):
        unknown = set(text) - _independent
        if not all(map(_is_independent_character, unknown)):
            return False
        _independent.update(unknown)
    return unicodedata.is_normalized("NFC", text)


# Cache of such characters: at most the 235,000 of Unicode 3.2.
_independent: set[str] = set()


def _is_independent_character(char: str) -> bool:
    category = unicodedata.category(char)
    # A pattern that ignores case takes the long s and the Kelvin sign for s and k.
    return category == unicodedata.ucd_3_2_0.category(char) != "Cn" and char not in "\u017f\u212a"


@cache
def byte_alphabet() -> dict[str, int]:
    """The characters that represent bytes in byte-level BPE (openai/gpt-2, src/encoder.py, `bytes_to_unicode`)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}
