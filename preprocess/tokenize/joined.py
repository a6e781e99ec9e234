"""Encode many new words in one library call, because a call costs about as much as a word.

Words with a blank before each are encoded as one text. As a tokenizer with `cuts` lets no token span the start of a
blank behind a word, each token is of one word, which is told by the number of bytes of the tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from preprocess.tokenize.cuts import Cuts
from preprocess.tokenize.tokenizer import Tokenizer

# Words of one call: the library needs some fifty bytes a character for one text.
_AT_A_TIME = 2_000
_BYTE = re.compile("<0x[0-9A-F]{2}>")


class JoinedWords:
    """Encoder of many words at once, each after a blank."""

    def __init__(self, tokenizer: Tokenizer, cuts: Cuts) -> None:
        self._tokenizer, self._cuts = tokenizer, cuts
        self._bytes_of_ids: npt.NDArray[np.int64] | None = None

    def encode(self, words: Sequence[str]) -> dict[str, bytes]:
        """Words without blanks, each with its ids as int32, but for those that need a call of their own."""
        fit = self._cuts.joinable(words)
        encoded: dict[str, bytes] = {}
        for start in range(0, len(fit), _AT_A_TIME):
            self._add(fit[start : start + _AT_A_TIME], encoded)
        return encoded

    def _add(self, words: Sequence[str], encoded: dict[str, bytes]) -> None:
        blank = self._cuts.blank
        text = blank + blank.join(words)
        ids = np.array(self._tokenizer.backend.encode(text), dtype=np.int32)
        token_ends = np.cumsum(self._sizes()[ids])
        spelled = text.encode()
        # Where a word ends, the blank before the next one begins.
        blanks = np.frombuffer(spelled.replace(blank.encode(), b" " * len(blank.encode())), np.uint8) == ord(" ")
        word_ends = np.append(np.flatnonzero(blanks)[:: len(blank.encode())][1:], len(spelled))
        last = np.searchsorted(token_ends, word_ends)
        if last[-1] != len(ids) - 1 or not np.array_equal(token_ends[last], word_ends):
            return  # the vocabulary lacks a byte
        data, begin = ids.tobytes(), 0
        for word, end in zip(words, ((last + 1) * ids.itemsize).tolist(), strict=True):
            encoded[word] = data[begin:end]
            begin = end

    def _sizes(self) -> npt.NDArray[np.int64]:
        """Of each id, how many bytes of text it stands for: byte-level vocabularies spell each with one character."""
        if self._bytes_of_ids is None:
            tokens = self._tokenizer.tokens
            sizes = (
                [1 if _BYTE.fullmatch(token) else len(token.encode()) for token in tokens]
                if self._tokenizer.sentencepiece_rule
                else list(map(len, tokens))
            )
            self._bytes_of_ids = np.array(sizes)
        return self._bytes_of_ids
