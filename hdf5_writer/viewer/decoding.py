"""Decode ids to pieces and text with the tokenizer of the dataset; without it, show ids."""

from __future__ import annotations

import re
from typing import NamedTuple

from hdf5_writer.data_params import DataParams
from preprocess.config import ConfigError
from preprocess.templates import TEMPLATES
from preprocess.tokenize.byte_level import byte_alphabet
from preprocess.tokenize.splitters import METASPACE
from preprocess.tokenize.tokenizer import Tokenizer, load_tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Part(NamedTuple):
    """A part of decoded text: plain text, or one special token such as EOS."""

    text: str
    is_special: bool


class TokenDecoder:
    """Decodes the ids of one dataset."""

    def __init__(self, tokenizer: Tokenizer | None, note: str | None, *, image_starts_text: bool = True) -> None:
        """Create a decoder.

        Args:
            tokenizer: the tokenizer of the dataset; None shows ids only.
            note: why there is no tokenizer.
            image_starts_text: whether the text after an image was tokenized as a new text, with a dummy prefix.
        """
        self.note = note
        self._image_starts_text = image_starts_text
        self._tokenizer = tokenizer
        self._bytes = byte_alphabet()
        self._special = set() if tokenizer is None else {tokenizer.bos_id, tokenizer.eos_id}
        self._before_text = set()
        for token in () if tokenizer is None else tokenizer.added.values():
            self._special.add(token.id)
            if token.starts_text:
                self._before_text.add(token.id)

    @property
    def has_tokenizer(self) -> bool:
        """Whether a tokenizer is available."""
        return self._tokenizer is not None

    def piece(self, id_: int) -> str:
        """Return a readable piece, with spaces as `▁`; the id if it has none.

        A byte-level BPE piece is decoded, unless it is an incomplete character.
        """
        piece = self._spelling(id_)
        if self._tokenizer is None or self._tokenizer.sentencepiece_rule or id_ in self._special:
            return piece
        text = self._decode([id_])
        return piece if "\N{REPLACEMENT CHARACTER}" in text else text.replace(" ", METASPACE)

    def _spelling(self, id_: int) -> str:
        """Return the piece as in the vocabulary."""
        tokens = () if self._tokenizer is None else self._tokenizer.tokens
        return tokens[id_] if 0 <= id_ < len(tokens) and tokens[id_] else f"[{id_}]"

    def starts_text(self, before: int | None, after_image: bool) -> bool:
        """Return whether a token starts a text, so that its dummy prefix is not part of the text.

        Args:
            before: the previous token; None at the start of a sample and after an image.
            after_image: whether the token follows an image.
        """
        if after_image:
            return self._image_starts_text
        return before is None or before in self._before_text

    def parts(self, ids: tuple[int, ...], starts_text: bool) -> list[Part]:
        """Decode ids.

        Args:
            ids: consecutive tokens.
            starts_text: whether the first token starts a text, so that its dummy prefix is not part of the text.
        """
        if self._tokenizer is None:
            return []
        parts: list[Part] = []
        waiting: list[int] = []
        for id_ in ids:
            if id_ not in self._special:
                waiting.append(id_)
                continue
            starts_text = self._flush(waiting, parts, starts_text) or id_ in self._before_text
            parts.append(Part(self._spelling(id_), True))
        self._flush(waiting, parts, starts_text)
        return parts

    def _flush(self, ids: list[int], parts: list[Part], starts_text: bool) -> bool:
        """Append the text of ids to `parts`; return whether the next token still starts a text."""
        assert self._tokenizer is not None
        if not ids:
            return starts_text
        text = self._decode(ids)
        parts.append(Part(text.removeprefix(" ") if starts_text and self._tokenizer.dummy_prefix else text, False))
        ids.clear()
        return False

    def _decode(self, ids: list[int]) -> str:
        assert self._tokenizer is not None
        data = bytearray()
        for id_ in ids:
            piece = self._spelling(id_)
            byte = _BYTE.fullmatch(piece)
            if not self._tokenizer.sentencepiece_rule and all(char in self._bytes for char in piece):
                data += bytes(self._bytes[char] for char in piece)
            elif byte and self._tokenizer.sentencepiece_rule:
                data.append(int(byte[1], 16))
            else:
                data += piece.replace(METASPACE, " ").encode()
        return data.decode(errors="replace")


def load_decoder(params: DataParams, name: str) -> TokenDecoder:
    """Load the token decoder of a dataset.

    Args:
        params: its `data_params.json`.
        name: folder or Hugging Face name of its tokenizer.
    """
    try:
        tokenizer = load_tokenizer(name)
    except ConfigError as error:
        return TokenDecoder(None, f"Ids only: {error}.")
    if tokenizer.digest != params.tokenizer.digest:
        return TokenDecoder(
            None,
            f"Ids only: the tokenizer {name} is not the tokenizer of this dataset "
            f"(digest {tokenizer.digest[:12]}…, expected {params.tokenizer.digest[:12]}…); "
            "give the right one with --tokenizer.",
        )
    # LLaVA 1.5 templates start a new text after an image; others treat it like a special token (`Encoder.encode`).
    is_llava = params.config.dataset.system_prompt_style in TEMPLATES
    return TokenDecoder(tokenizer, None, image_starts_text=is_llava or tokenizer.prefix_after_special)
