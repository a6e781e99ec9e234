"""Encode the segments of one record: ids and supervised spans.

With a splitter, a text is encoded word by word, and each distinct word once: the ids are cached in a dict. Without one,
the library encodes whole texts.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from preprocess.rejects import Reason, Rejected
from preprocess.samples import Sample
from preprocess.segments import ConstantSegments, Mark, Segment, Special, Text
from preprocess.tokenize.joined import JoinedWords
from preprocess.tokenize.splitters import METASPACE, Splitter
from preprocess.tokenize.tokenizer import Tokenizer

# Longer words rarely repeat, and would fill the bounded cache.
_LONGEST_CACHED = 64
_MAX_CACHED = 16_000  # in each of two generations
# The library needs about 50 bytes per character of one word. No written language has words this long.
_LONGEST_WORD = 1 << 20
_ID_BYTES = array("i").itemsize
# Segments of a template, equal in many records; a text comes with the flag `starts_text`.
Constant = Mark | Special | ConstantSegments | tuple[str, bool]


class Encoder:
    """Encoder of segments. Do not share it between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._splitter = tokenizer.splitter
        if self._splitter is not None:
            self._no_space = _WordCache(tokenizer, self._splitter, prefix="")
            self._after_space = _WordCache(tokenizer, self._splitter, prefix=self._splitter.space)
            self._no_space.inner = self._after_space.inner = self._no_space
            self._joined = JoinedWords(tokenizer, self._splitter)
        self._bos = b"" if tokenizer.bos_id is None else _to_bytes([tokenizer.bos_id])
        self._eos = _to_bytes([tokenizer.eos_id])
        self._constants: dict[Constant, bytes] = {Mark.BOS: self._bos, Mark.EOS: self._eos}

    def encode(self, segments: Sequence[Segment]) -> Sample:
        """Ids and supervised spans of a rendered conversation.

        A token is supervised if it contains any part of a supervised text; EOS always is. A text is encoded as the
        start of a text (with the dummy prefix) at the beginning of the sample and after an image, and as a
        continuation after EOS and after a later BOS. After a special token or an image token the tokenizer decides.
        """
        chunks: list[bytes] = []
        spans: list[tuple[int, int]] = []
        image_at: list[int] = []
        count, starts_text = 0, True
        splitter = self._splitter
        position, last = 0, len(segments)
        while position < last:
            segment = segments[position]
            position += 1
            if isinstance(segment, Text):
                following = segments[position] if position < last else None
                if isinstance(following, Text) and not (
                    splitter is not None and splitter.can_split_between(segment.text, following.text)
                ):
                    run = [segment]
                    while position < last and isinstance(following := segments[position], Text):
                        run.append(following)
                        position += 1
                    count = self._add_run(run, starts_text, chunks, spans, count)
                    starts_text = False
                    continue
                key = segment.text, starts_text
                encoded = self.encode_constant(key) if segment.constant else self.encode_text(*key)
                supervised, starts_text = segment.supervised, False
            elif type(segment) is Special or type(segment) is ConstantSegments:
                encoded = self.encode_constant(segment)
                supervised, starts_text = segment.supervised, segment.starts_text
            elif segment is Mark.IMAGE or segment is Mark.IMAGE_TOKEN:
                image_at.append(count)
                starts_text = segment is Mark.IMAGE or self.tokenizer.prefix_after_special
                continue
            elif segment is Mark.BOS:
                encoded, supervised, starts_text = self._bos, False, position == 1
            else:
                encoded, supervised, starts_text = self._eos, True, False
            chunks.append(encoded)
            end = count + len(encoded) // _ID_BYTES
            if supervised:
                _add_span(spans, count, end)
            count = end
        return Sample(np.frombuffer(b"".join(chunks), dtype=np.int32), spans, tuple(image_at))

    def encode_constant(self, constant: Constant) -> bytes:
        """Ids (int32 bytes) of a constant; cached without limit."""
        found = self._constants.get(constant)
        if found is None:
            assert not isinstance(constant, Mark)
            if isinstance(constant, Special):
                found = _to_bytes([constant.id])
            elif isinstance(constant, ConstantSegments):
                found = self.encode(constant.segments).ids.tobytes()
            else:
                found = self.encode_text(*constant)
            self._constants[constant] = found
        return found

    def encode_word(self, word: str, *, after_space: bool) -> bytes:
        """Ids (int32 bytes) of a word without spaces; `after_space` prepends a space."""
        return (self._after_space if after_space else self._no_space)[word]

    def encode_new_words(self, words: Iterable[str]) -> dict[str, bytes]:
        """Ids (int32 bytes), after a space, of the uncached words that can be encoded together."""
        known = self._after_space
        encoded = self._joined.encode([word for word in words if len(word) <= _LONGEST_CACHED and not known.has(word)])
        for word, ids in encoded.items():
            known.keep(word, ids)
        return encoded

    def encode_text(self, text: str, starts_text: bool) -> bytes:
        """Ids (int32 bytes) of one text, where no token can span the boundary to an adjacent text."""
        splitter = self._splitter
        if splitter is None:
            return _to_bytes(self._encode_whole(text, starts_text)[0])
        if not text:
            return b""
        prefixed = starts_text and splitter.dummy_prefix
        if not splitter.can_split_at_spaces(text) or (prefixed and text[0] == " "):
            return b"".join(
                map(self._no_space.__getitem__, splitter.split_at_space_runs(f" {text}" if prefixed else text))
            )
        # The common case: every word except perhaps the first has exactly one space before it.
        if prefixed:
            return b"".join(map(self._after_space.__getitem__, text.split(" ")))
        first, space, rest = text.partition(" ")
        head = self._no_space[first] if first else b""
        return head + b"".join(map(self._after_space.__getitem__, rest.split(" "))) if space else head

    def _encode_whole(self, text: str, starts_text: bool) -> tuple[list[int], list[int], int]:
        """Encode a whole text with the library: ids, start offset of each token, and length of the dummy prefix."""
        tokenizer = self.tokenizer
        if not tokenizer.sentencepiece_rule:
            return *tokenizer.backend.encode_with_starts(text), 0
        if not text:
            return [], [], 0
        prefix = METASPACE if starts_text and tokenizer.dummy_prefix else ""
        ids, starts = tokenizer.backend.encode_with_starts(prefix + text.replace(" ", METASPACE))
        return ids, starts, tokenizer.backend.measure(prefix)

    def _add_run(
        self, run: list[Text], starts_text: bool, chunks: list[bytes], spans: list[tuple[int, int]], count: int
    ) -> int:
        """Encode adjacent texts as one; a token with any part of a supervised text is supervised."""
        ids, starts, end = self._encode_whole("".join(text.text for text in run), starts_text)
        ends = []
        for segment in run:
            text = segment.text
            escaped = text.replace(" ", METASPACE) if self.tokenizer.sentencepiece_rule else text
            end += self.tokenizer.backend.measure(escaped)
            ends.append(end)
        last = len(run) - 1
        for start, stop in pairwise([*starts, end]):
            texts = run[min(bisect_right(ends, start), last) : bisect_right(ends, max(start, stop - 1)) + 1]
            if any(text.supervised for text in texts):
                _add_span(spans, count, count + 1)
            count += 1
        chunks.append(_to_bytes(ids))
        return count


class _WordCache(dict[str, bytes]):
    """Cache of the ids (int32 bytes) of words; missing words are encoded by the library.

    Bounded by two generations: words not used since the last change of generation are dropped.
    """

    def __init__(self, tokenizer: Tokenizer, splitter: Splitter, prefix: str) -> None:
        super().__init__()
        self._encode = tokenizer.backend.encode
        self._splitter = splitter
        self._prefix = prefix
        self.inner: _WordCache = self  # for the parts of a word after the first
        self._older: dict[str, bytes] = {}

    def has(self, word: str) -> bool:
        """Whether the ids of a word are cached."""
        return word in self or word in self._older

    def keep(self, word: str, encoded: bytes) -> None:
        """Cache the ids of a word."""
        if len(self) >= _MAX_CACHED:
            self._older = dict(self)
            self.clear()
        self[word] = encoded

    def __missing__(self, word: str) -> bytes:
        if len(word) > _LONGEST_WORD:
            raise Rejected(
                Reason.TOO_LONG, f"{len(word):,} characters without a space, expected at most {_LONGEST_WORD:,}"
            )
        known = self._older.get(word)
        if known is not None:
            self.keep(word, known)
            return known
        first, *others = self._splitter.split_word(word)
        if others:
            # The parts occur far more often than the whole word.
            encoded = self[first] + b"".join(map(self.inner.__getitem__, others))
        else:
            encoded = _to_bytes(self._encode(self._prefix + self._splitter.escape(word)))
        if len(word) <= _LONGEST_CACHED:
            self.keep(word, encoded)
        return encoded


def _add_span(spans: list[tuple[int, int]], start: int, end: int) -> None:
    if spans and spans[-1][1] == start:
        spans[-1] = (spans[-1][0], end)
    elif end > start:
        spans.append((start, end))


def _to_bytes(ids: Iterable[int]) -> bytes:
    return array("i", ids).tobytes()
