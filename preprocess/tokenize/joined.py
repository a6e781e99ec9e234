"""Encode many new words in one library call, because a call costs about as much as a word.

The words are encoded as one text with a space before each. With a splitter no token spans the start of such a space, so
each token belongs to one word. The byte lengths of the tokens tell which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from preprocess.tokenize.splitters import Splitter
from preprocess.tokenize.tokenizer import Tokenizer

# The library needs about 50 bytes per character of one text.
_WORDS_PER_CALL = 2_000
_BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")


class JoinedWords:
    """Encoder of many words at once, each after a space."""

    def __init__(self, tokenizer: Tokenizer, splitter: Splitter) -> None:
        self._tokenizer, self._splitter = tokenizer, splitter
        self._token_bytes: npt.NDArray[np.int64] | None = None

    def encode(self, words: Sequence[str]) -> dict[str, bytes]:
        """Map words (without spaces) to their ids (int32 bytes); words that need a separate call are left out."""
        joinable = self._splitter.joinable(words)
        encoded: dict[str, bytes] = {}
        for start in range(0, len(joinable), _WORDS_PER_CALL):
            self._add(joinable[start : start + _WORDS_PER_CALL], encoded)
        return encoded

    def _add(self, words: Sequence[str], encoded: dict[str, bytes]) -> None:
        space = self._splitter.space
        text = space + space.join(words)
        ids = np.array(self._tokenizer.backend.encode(text), dtype=np.int32)
        token_ends = np.cumsum(self._sizes()[ids])
        text_bytes, space_bytes = text.encode(), space.encode()
        is_space = np.frombuffer(text_bytes.replace(space_bytes, b" " * len(space_bytes)), np.uint8) == ord(" ")
        # A word ends where the space before the next one starts.
        word_ends = np.append(np.flatnonzero(is_space)[:: len(space_bytes)][1:], len(text_bytes))
        last = np.searchsorted(token_ends, word_ends)
        if last[-1] != len(ids) - 1 or not np.array_equal(token_ends[last], word_ends):
            return  # a byte is missing in the vocabulary
        data, begin = ids.tobytes(), 0
        for word, end in zip(words, ((last + 1) * ids.itemsize).tolist(), strict=True):
            encoded[word] = data[begin:end]
            begin = end

    def _sizes(self) -> npt.NDArray[np.int64]:
        """Number of text bytes of each id; in byte-level vocabularies each byte is one character."""
        if self._token_bytes is None:
            tokens = self._tokenizer.tokens
            sizes = (
                [1 if _BYTE_PIECE.fullmatch(token) else len(token.encode()) for token in tokens]
                if self._tokenizer.sentencepiece_rule
                else list(map(len, tokens))
            )
            self._token_bytes = np.array(sizes)
        return self._token_bytes
