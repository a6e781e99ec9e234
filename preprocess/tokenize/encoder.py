"""Segments → ids and supervised spans, exact and cached.

Why a dict of words is exact: where a tokenizer has `cuts`, a text may be cut before its blanks, so it is encoded word
by word, each distinct word once. Where it has none the library encodes whole texts.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from preprocess.rejects import Reason, Rejected
from preprocess.samples import Sample
from preprocess.segments import Fixed, Mark, Segment, Special, Text
from preprocess.tokenize.cuts import BLANK, Cuts
from preprocess.tokenize.joined import JoinedWords
from preprocess.tokenize.tokenizer import Tokenizer

# Longer pieces are rarely met twice, and a bounded cache must not fill up with them.
_LONGEST_CACHED = 64
_MOST_CACHED = 16_000  # in each of two generations
# The library needs some fifty bytes a character for one piece; no written language goes this far without a blank.
_LONGEST_PIECE = 1 << 20
_ITEM = array("i").itemsize
# The same in many records; a text of a template comes with whether it starts a text.
Constant = Mark | Special | Fixed | tuple[str, bool]


class Encoder:
    """Encoder of segments. Do not share it between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._cuts = tokenizer.cuts
        if self._cuts is not None:
            self._bare = _PieceTable(tokenizer, self._cuts, prefix="")
            self._after_blank = _PieceTable(tokenizer, self._cuts, prefix=self._cuts.blank)
            self._bare.inner = self._after_blank.inner = self._bare
            self._joined = JoinedWords(tokenizer, self._cuts)
        self._bos = b"" if tokenizer.bos_id is None else _to_bytes([tokenizer.bos_id])
        self._eos = _to_bytes([tokenizer.eos_id])
        self._constants: dict[Constant, bytes] = {Mark.BOS: self._bos, Mark.EOS: self._eos}

    def encode(self, segments: Sequence[Segment]) -> Sample:
        """Ids and supervised spans of a rendered conversation.

        A token is supervised when it holds any of a supervised text; EOS always is. A text is encoded as the
        start of a text (with the dummy prefix) at the beginning of the sample and after an image, and as the
        continuation of one after EOS and after a later BOS. What it is after a special token and after an
        image token is the tokenizer's.
        """
        chunks: list[bytes] = []
        spans: list[tuple[int, int]] = []
        image_at: list[int] = []
        count, starts_text = 0, True
        cuts = self._cuts
        position, last = 0, len(segments)
        while position < last:
            segment = segments[position]
            position += 1
            if isinstance(segment, Text):
                following = segments[position] if position < last else None
                if isinstance(following, Text) and not (
                    cuts is not None and cuts.between(segment.text, following.text)
                ):
                    run = [segment]
                    while position < last and isinstance(following := segments[position], Text):
                        run.append(following)
                        position += 1
                    count = self._add_run(run, starts_text, chunks, spans, count)
                else:
                    encoded = (
                        self.encode_constant((segment.text, starts_text))
                        if segment.constant
                        else self.encode_text(segment.text, starts_text)
                    )
                    chunks.append(encoded)
                    end = count + len(encoded) // _ITEM
                    if segment.supervised:
                        _add_span(spans, count, end)
                    count = end
                starts_text = False
            elif isinstance(segment, Special):
                chunks.append(self.encode_constant(segment))
                if segment.supervised:
                    _add_span(spans, count, count + 1)
                starts_text = segment.starts_text
                count += 1
            elif isinstance(segment, Fixed):
                encoded = self.encode_constant(segment)
                chunks.append(encoded)
                end = count + len(encoded) // _ITEM
                if segment.supervised:
                    _add_span(spans, count, end)
                count, starts_text = end, segment.starts_text
            elif segment is Mark.IMAGE or segment is Mark.IMAGE_TOKEN:
                image_at.append(count)
                starts_text = segment is Mark.IMAGE or self.tokenizer.prefix_after_special
            elif segment is Mark.BOS:
                chunks.append(self._bos)
                starts_text = position == 1
                count += len(self._bos) // _ITEM
            else:
                chunks.append(self._eos)
                _add_span(spans, count, count + 1)
                starts_text = False
                count += 1
        return Sample(np.frombuffer(b"".join(chunks), dtype=np.int32), spans, tuple(image_at))

    def encode_constant(self, constant: Constant) -> bytes:
        """Ids (int32) of a constant that occurs in many records. Cached."""
        found = self._constants.get(constant)
        if found is None:
            assert not isinstance(constant, Mark)
            if isinstance(constant, Special):
                found = _to_bytes([constant.id])
            elif isinstance(constant, Fixed):
                found = self.encode(constant.segments).ids.tobytes()
            else:
                found = self.encode_text(*constant)
            self._constants[constant] = found
        return found

    def encode_word(self, word: str, *, after_blank: bool) -> bytes:
        """Ids (int32) of a word without blanks; `after_blank` prepends a blank."""
        return (self._after_blank if after_blank else self._bare)[word]

    def encode_new_words(self, words: Iterable[str]) -> dict[str, bytes]:
        """Ids, as `encode_word` gives them, of those words after a blank that are new and can be encoded together."""
        known = self._after_blank
        encoded = self._joined.encode([word for word in words if len(word) <= _LONGEST_CACHED and not known.has(word)])
        for word, ids in encoded.items():
            known.keep(word, ids)
        return encoded

    def encode_text(self, text: str, starts_text: bool) -> bytes:
        """Ids, as int32, of one text whose neighbours no token can span."""
        cuts = self._cuts
        if cuts is None:
            return _to_bytes(self._encode_whole(text, starts_text)[0])
        if not text:
            return b""
        prefixed = starts_text and cuts.dummy_prefix
        if not cuts.has_single_blanks(text) or (prefixed and text[0] == " "):
            return b"".join(map(self._bare.__getitem__, cuts.at_runs_of_blanks(f" {text}" if prefixed else text)))
        # The common case: single blanks only, so every word but perhaps the first has exactly one before it.
        if prefixed:
            return b"".join(map(self._after_blank.__getitem__, text.split(" ")))
        first, blank, rest = text.partition(" ")
        head = self._bare[first] if first else b""
        return head + b"".join(map(self._after_blank.__getitem__, rest.split(" "))) if blank else head

    def _encode_whole(self, text: str, starts_text: bool) -> tuple[list[int], list[int], int]:
        """The library's call on a whole text: ids, where each starts, and the length of what was put in front."""
        tokenizer = self.tokenizer
        if not tokenizer.sentencepiece_rule:
            return *tokenizer.backend.encode_with_starts(text), 0
        if not text:
            return [], [], 0
        prefix = BLANK if starts_text and tokenizer.dummy_prefix else ""
        ids, starts = tokenizer.backend.encode_with_starts(prefix + text.replace(" ", BLANK))
        return ids, starts, tokenizer.backend.measure(prefix)

    def _add_run(
        self, run: list[Text], starts_text: bool, chunks: list[bytes], spans: list[tuple[int, int]], count: int
    ) -> int:
        """Encode neighbouring texts as one, and supervise each token that holds any of a supervised one."""
        ids, starts, end = self._encode_whole("".join(text.text for text in run), starts_text)
        ends = []
        for segment in run:
            # The SentencePiece rule spells a blank with three bytes.
            text = segment.text
            spelled = text.replace(" ", BLANK) if self.tokenizer.sentencepiece_rule else text
            end += self.tokenizer.backend.measure(spelled)
            ends.append(end)
        last = len(run) - 1
        for start, stop in pairwise([*starts, end]):
            texts = run[min(bisect_right(ends, start), last) : bisect_right(ends, max(start, stop - 1)) + 1]
            if any(text.supervised for text in texts):
                _add_span(spans, count, count + 1)
            count += 1
        chunks.append(_to_bytes(ids))
        return count


class _PieceTable(dict[str, bytes]):
    """Piece → its ids as bytes; a missing one is encoded by the library.

    Bounded by two generations: pieces not used since the last change of generation are dropped.
    """

    def __init__(self, tokenizer: Tokenizer, cuts: Cuts, prefix: str) -> None:
        super().__init__()
        self._encode = tokenizer.backend.encode
        self._cuts, self._ends_words = cuts, cuts.ends_words
        self._prefix = prefix
        self.inner: _PieceTable = self
        self._older: dict[str, bytes] = {}

    def has(self, piece: str) -> bool:
        """Whether the ids of a piece are cached."""
        return piece in self or piece in self._older

    def keep(self, piece: str, encoded: bytes) -> None:
        """Cache the ids of a piece."""
        if len(self) >= _MOST_CACHED:
            self._older = dict(self)
            self.clear()
        self[piece] = encoded

    def __missing__(self, piece: str) -> bytes:
        if len(piece) > _LONGEST_PIECE:
            raise Rejected(Reason.TOO_LONG, f"{len(piece):,} characters without a blank, expected {_LONGEST_PIECE:,}")
        known = self._older.get(piece)
        if known is not None:
            self.keep(piece, known)
            return known
        parts = self._cuts.within_word(piece)
        if len(parts) > 1:
            # Parts occur far more often than the whole word.
            encoded = self[parts[0]] + b"".join(map(self.inner.__getitem__, parts[1:]))
        elif piece[-1:] in self._ends_words and len(piece) > 1 and piece[-2].isascii() and piece[-2].isalnum():
            # So is one before punctuation that no piece joins to a letter or digit.
            encoded = self[piece[:-1]] + self.inner[piece[-1]]
        else:
            encoded = _to_bytes(self._encode(self._prefix + self._cuts.spell(piece)))
        if len(piece) <= _LONGEST_CACHED:
            self.keep(piece, encoded)
        return encoded


def _add_span(spans: list[tuple[int, int]], start: int, end: int) -> None:
    if spans and spans[-1][1] == start:
        spans[-1] = (spans[-1][0], end)
    elif end > start:
        spans.append((start, end))


def _to_bytes(ids: Iterable[int]) -> bytes:
    return array("i", ids).tobytes()
