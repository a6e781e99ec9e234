"""Vocabulary lookup of many words at once: a hash table of numpy arrays, used as a cache of the encoder."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from preprocess.tokenize.splitters import METASPACE

# Kind of a word: encoded without a space before it, with one, or the number of a constant.
NO_SPACE, AFTER_SPACE, CONSTANT = 0, 1, 2
_LONGEST_WORD = 15  # bytes
_SLOT_BITS = 18
_SLOT_MASK = np.uint64((1 << _SLOT_BITS) - 1)
_MAX_WORDS = 100_000
_METASPACE_BYTES = METASPACE.encode()
_EMPTY_AFTER_SPACE = np.uint64(AFTER_SPACE << 56)

_Ints = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]


class WordSource(Protocol):
    """Source of ids (int32 bytes) that are missing in the table."""

    def new_words(self, raw: set[bytes]) -> dict[bytes, bytes]:
        """Ids of those words after a space that can be encoded together."""

    def word(self, kind: int, raw: bytes) -> bytes:
        """Ids of one word."""

    def item(self, item: int) -> bytes:
        """Ids of an item that cannot be split into words."""

    def fail(self, item: int, error: Exception) -> None:
        """Record what `word` or `item` raised for this item."""


class _Hashed(NamedTuple):
    """The key of each word, shape (n, 2), and its two possible slots, shape (n,) each."""

    keys: _Words
    first: _Words
    second: _Words


class WordList(NamedTuple):
    """The n words of the m items of a batch.

    Attributes:
        data: the bytes of all words.
        starts, lengths: in bytes, shape (n,).
        kinds: shape (n,).
        item_offsets: shape (m + 1,): item i has the words `item_offsets[i]` to `item_offsets[i + 1] - 1`.
    """

    data: bytes
    starts: _Ints
    lengths: _Ints
    kinds: npt.NDArray[np.uint64]
    item_offsets: _Ints

    def raw(self, word: int) -> bytes:
        """The bytes of a word."""
        start = int(self.starts[word])
        return self.data[start : start + int(self.lengths[word])]

    def raws(self, words: _Ints) -> list[bytes]:
        """The bytes of several words."""
        starts = self.starts[words]
        ends = starts + self.lengths[words]
        return [self.data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def item_of(self, word: int) -> int:
        """The item that contains a word."""
        return int(np.searchsorted(self.item_offsets, word, side="right")) - 1

    def items_with_space_runs(self, high_keys: _Words) -> set[int]:
        """Items with two adjacent spaces. One space at the end of an item is a normal word: `▁` alone."""
        empty = np.flatnonzero(high_keys == _EMPTY_AFTER_SPACE)
        if not len(empty):
            return set()
        items = np.searchsorted(self.item_offsets, empty, side="right") - 1
        return set(items[self.item_offsets[items + 1] != empty + 1].tolist())

    def items_with_space_after_whitespace(self) -> set[int]:
        """Items in which a word that ends with whitespace is followed by another word."""
        ends = self.starts + self.lengths
        last_bytes = np.frombuffer(self.data or b"\0", np.uint8)[np.maximum(ends - 1, 0)]
        found = set()
        for word in np.flatnonzero(_LAST_BYTES[last_bytes] & (self.lengths > 0)).tolist():
            item = self.item_of(word)
            if word + 1 < self.item_offsets[item + 1] and self.raw(word).endswith(_WHITESPACE_BYTES):
                found.add(item)
        return found


def split_at_spaces(data: bytes, item_lengths: _Ints, kinds: list[int]) -> WordList:
    """Split at every space. The items are joined by spaces.

    Args:
        data: the joined items.
        item_lengths: in bytes, shape (m,).
        kinds: the kind of the first word of each item.
    """
    spaces = np.flatnonzero(np.frombuffer(data, np.uint8) == ord(" "))
    starts = np.concatenate((np.zeros(1, np.int64), spaces + 1))
    lengths = np.append(spaces, len(data)) - starts
    item_ends = np.cumsum(item_lengths + 1)
    item_offsets = np.searchsorted(starts, np.append(item_ends - item_lengths - 1, len(data) + 1))
    word_kinds = np.full(len(starts), AFTER_SPACE, np.uint64)
    word_kinds[item_offsets[:-1]] = kinds
    return WordList(data, starts, lengths, word_kinds, item_offsets)


def _masks(first: int, most: int) -> _Words:
    """Bit masks, indexed by word length (up to 63), that keep the word's bytes from `first` on, at most `most`."""
    kept = np.clip(np.arange(64) - first, 0, most)
    return np.array([(1 << 8 * int(count)) - 1 for count in kept], dtype=np.uint64)


_LOW_MASK, _HIGH_MASK = _masks(0, 8), _masks(8, _LONGEST_WORD - 8)
_MIX = [np.uint64(factor) for factor in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)]


class WordTable:
    """Hash table from words of up to 15 bytes to their ids. A word is stored in one of two slots, or not at all.

    A key is the word itself in two integers, with its length and kind. Equal keys mean equal words, so the hash
    function affects only speed. An empty slot holds the key of the empty word, which has no ids.
    """

    def __init__(self) -> None:
        # Two integers of the key, then the position of the ids in the pool and their count.
        self._slots = np.zeros((1 << _SLOT_BITS, 4), dtype=np.uint64)
        self._pool = np.zeros(1 << 16, dtype=np.int32)
        self._pool_used = self._words = 0

    def look_up(self, words: WordList, source: WordSource) -> tuple[npt.NDArray[np.int32], _Ints]:
        """Ids of all words of a batch, and the number of ids of each: shapes (total,) and (n,)."""
        if self._words > _MAX_WORDS:
            self._slots.fill(0)
            self._pool_used = self._words = 0
        hashed = _hash(words)
        keys, first, second = hashed
        rows = self._slots.take(first.view(np.int64), axis=0)
        missing = np.flatnonzero((rows[:, 0] != keys[:, 0]) | (rows[:, 1] != keys[:, 1]))
        if len(missing):
            others = self._slots[second[missing]]
            hits = (others[:, :2] == keys[missing]).all(axis=1)
            rows[missing[hits]] = others[hits]
            missing = missing[~hits]
        places = rows[:, 2:].astype(np.int64)
        unsplit = self._unsplittable(words, keys[:, 1])
        if len(missing) or unsplit:
            self._encode_missing(words, missing, unsplit, source, hashed, places)
        counts = places[:, 1]
        ends = np.cumsum(counts)
        return self._pool[np.repeat(places[:, 0] - (ends - counts), counts) + np.arange(ends[-1])], counts

    def _encode_missing(
        self, words: WordList, missing: _Ints, unsplit: set[int], source: WordSource, hashed: _Hashed, places: _Ints
    ) -> None:
        """Get the ids of missing words and of unsplittable items from `source`; write their positions to `places`."""
        keys, first, second = hashed
        places[missing] = 0
        # Slot → word and ids to store in the table; ids for this batch only.
        kept: dict[int, tuple[int, bytes]] = {0: (0, b"")}
        batch_only: list[tuple[int, bytes]] = []
        slots = np.where(self._is_free(first[missing]), first[missing], second[missing])
        slots = np.where(self._is_free(slots), slots, 0)
        kinds, raws = words.kinds[missing].tolist(), words.raws(missing)
        new = source.new_words({raw for raw, kind in zip(raws, kinds, strict=True) if kind == AFTER_SPACE})
        for word, kind, raw, slot in zip(missing.tolist(), kinds, raws, slots.tolist(), strict=True):
            if kind != CONSTANT and self._contains_space(raw):
                unsplit.add(words.item_of(word))
                continue
            try:
                ids = (new.get(raw) if kind == AFTER_SPACE else None) or source.word(kind, raw)
            except Exception as error:
                source.fail(words.item_of(word), error)
                continue
            if len(raw) > _LONGEST_WORD or slot in kept:
                batch_only.append((word, ids))
            else:
                kept[slot] = word, ids
        del kept[0]
        items: list[tuple[int, bytes]] = []
        for item in sorted(unsplit):
            try:
                items.append((int(words.item_offsets[item]), source.item(item)))
            except Exception as error:
                source.fail(item, error)

        found = [*kept.values(), *batch_only, *items]
        at = np.array([word for word, _ in found], dtype=np.int64)
        where = self._write([ids for _, ids in found])
        single, stored = len(found) - len(items), len(kept)
        places[at[:single]] = where[:single]
        for item in unsplit:
            places[words.item_offsets[item] : words.item_offsets[item + 1]] = 0
        places[at[single:]] = where[single:]
        self._slots[list(kept)] = np.concatenate((keys[at[:stored]], where[:stored].view(np.uint64)), axis=1)
        self._words += stored
        self._pool_used += int(where[:stored, 1].sum())

    def _unsplittable(self, words: WordList, high_keys: _Words) -> set[int]:
        """Items that must not be split at each of their spaces."""
        return words.items_with_space_runs(high_keys)

    def _contains_space(self, raw: bytes) -> bool:
        """Whether a word contains a space in another spelling, so that its item is unsplittable."""
        return _METASPACE_BYTES in raw

    def _is_free(self, slots: _Words) -> npt.NDArray[np.bool_]:
        free: npt.NDArray[np.bool_] = self._slots[slots, 1] == 0
        return free

    def _write(self, pieces: list[bytes]) -> _Ints:
        """Write ids after the used part of the pool; return their positions and counts, shape (n, 2)."""
        ids = np.frombuffer(b"".join(pieces), dtype=np.int32)
        end = self._pool_used + len(ids)
        if end > len(self._pool):
            self._pool = np.concatenate((self._pool, np.zeros(max(end, len(self._pool)), dtype=np.int32)))
        self._pool[self._pool_used : end] = ids
        counts = np.array([len(piece) for piece in pieces], dtype=np.int64) // ids.itemsize
        return np.stack((self._pool_used + np.cumsum(counts) - counts, counts), axis=1)


class PatternWordTable(WordTable):
    """Word table for a `PatternSplitter`: a space after whitespace starts no word, and `▁` is not a space."""

    def _unsplittable(self, words: WordList, high_keys: _Words) -> set[int]:
        return words.items_with_space_runs(high_keys) | words.items_with_space_after_whitespace()

    def _contains_space(self, raw: bytes) -> bool:
        return False


# Whitespace characters except the space, and their possible last bytes.
_WHITESPACE = [char for char in map(chr, range(0x3001)) if char.isspace() and char != " "] + ["\u180e"]
_LAST_BYTES = np.zeros(256, dtype=np.bool_)
_LAST_BYTES[[char.encode()[-1] for char in _WHITESPACE]] = True
_WHITESPACE_BYTES = tuple(char.encode() for char in _WHITESPACE)


def _hash(words: WordList) -> _Hashed:
    padded = words.data + bytes(16)
    at_each_byte = np.ndarray((len(padded) - 7,), np.dtype("<u8"), padded, 0, (1,))
    lengths = np.minimum(words.lengths, 63)
    keys = np.empty((len(lengths), 2), dtype=np.uint64)
    keys[:, 0] = at_each_byte[words.starts] & _LOW_MASK[lengths]
    meta = (lengths.view(np.uint64) << np.uint64(2)) | words.kinds
    keys[:, 1] = (at_each_byte[words.starts + 8] & _HIGH_MASK[lengths]) | (meta << np.uint64(56))
    hashes = (keys[:, 0] ^ (keys[:, 1] * _MIX[0])) * _MIX[1]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MIX[2]
    first, second = ((hashes >> np.uint64(64 - part * _SLOT_BITS)) & _SLOT_MASK for part in (1, 2))
    return _Hashed(keys, first, second)
