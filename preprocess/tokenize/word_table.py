"""Words → ids, many at once: a hash table of numpy arrays, in front of the encoder that knows them all."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from preprocess.tokenize.cuts import BLANK

# What a word is: the continuation of a text, the start of one or after a blank (spelled with `▁`), or not text at all.
BARE, AFTER_BLANK, CONSTANT = 0, 1, 2
_LONGEST_WORD = 15
_SLOT_BITS = 18
_SLOT_MASK = np.uint64((1 << _SLOT_BITS) - 1)
_MOST_WORDS = 100_000
_BLANK_BYTES = BLANK.encode()
_EMPTY_AFTER_BLANK = np.uint64(AFTER_BLANK << 56)

_Ints = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]


class WordSource(Protocol):
    """Where the table gets ids, as bytes of int32, that it does not have."""

    def new_words(self, raw: set[bytes]) -> dict[bytes, bytes]:
        """Ids of those words after a blank that are better encoded together than one by one."""

    def word(self, kind: int, raw: bytes) -> bytes:
        """Ids of one word."""

    def item(self, item: int) -> bytes:
        """Ids of an item that cannot be cut into words."""

    def fail(self, item: int, error: Exception) -> None:
        """What `word` or `item` raised for this item, which gets no ids there."""


class _Hashed(NamedTuple):
    """Of each word its key, shape (n, 2), and the two slots it may have, shape (n,)."""

    keys: _Words
    first: _Words
    second: _Words


class WordList(NamedTuple):
    """The words of a batch: n of them, of m items.

    Attributes:
        data: the bytes they stand in.
        starts, lengths, kinds: shape (n,).
        first_of_item: shape (m + 1,): behind the last, how many words there are.
    """

    data: bytes
    starts: _Ints
    lengths: _Ints
    kinds: npt.NDArray[np.uint64]
    first_of_item: _Ints

    def raw(self, word: int) -> bytes:
        """The bytes of a word."""
        start = int(self.starts[word])
        return self.data[start : start + int(self.lengths[word])]

    def raws(self, words: _Ints) -> list[bytes]:
        """The bytes of several."""
        starts = self.starts[words]
        ends = starts + self.lengths[words]
        return [self.data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]

    def item_of(self, word: int) -> int:
        """The item that a word is of."""
        return int(np.searchsorted(self.first_of_item, word, side="right")) - 1

    def items_with_runs_of_blanks(self, high_keys: _Words) -> set[int]:
        """Items with two blanks in a row. One blank at the end is a word like others, with no letter after its `▁`."""
        empty = np.flatnonzero(high_keys == _EMPTY_AFTER_BLANK)
        if not len(empty):
            return set()
        items = np.searchsorted(self.first_of_item, empty, side="right") - 1
        return set(items[self.first_of_item[items + 1] != empty + 1].tolist())

    def items_with_blanks_behind_white_space(self) -> set[int]:
        """Items in which a word that ends with white space is followed by another word."""
        ends = self.starts + self.lengths
        last_bytes = np.frombuffer(self.data or b"\0", np.uint8)[np.maximum(ends - 1, 0)]
        found = set()
        for word in np.flatnonzero(_ENDS_SPACE[last_bytes] & (self.lengths > 0)).tolist():
            item = self.item_of(word)
            if word + 1 < self.first_of_item[item + 1] and self.raw(word).endswith(_SPACE_BYTES):
                found.add(item)
        return found


def cut(data: bytes, item_lengths: _Ints, kinds: list[int]) -> WordList:
    """Cut at every blank; items are joined by blanks, so a cut is where an item ends, too."""
    blanks = np.flatnonzero(np.frombuffer(data, np.uint8) == ord(" "))
    starts = np.concatenate((np.zeros(1, np.int64), blanks + 1))
    lengths = np.append(blanks, len(data)) - starts
    item_ends = np.cumsum(item_lengths + 1)
    first_of_item = np.searchsorted(starts, np.append(item_ends - item_lengths - 1, len(data) + 1))
    word_kinds = np.full(len(starts), AFTER_BLANK, np.uint64)
    word_kinds[first_of_item[:-1]] = kinds
    return WordList(data, starts, lengths, word_kinds, first_of_item)


def _masks(first: int, most: int) -> _Words:
    """For each length of a word up to 63: what to keep of the eight bytes from byte `first` on, at most `most`."""
    kept = np.clip(np.arange(64) - first, 0, most)
    return np.array([(1 << 8 * int(count)) - 1 for count in kept], dtype=np.uint64)


_LOW_MASK, _HIGH_MASK = _masks(0, 8), _masks(8, _LONGEST_WORD - 8)
_MIX = [np.uint64(factor) for factor in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)]


class WordTable:
    """Words of up to 15 bytes → their ids. Each has one of two slots, or none.

    A key is the word itself in two integers, with its length and kind: equal keys are equal words, so nothing
    depends on the hash function but speed. An empty slot is the key of the empty word, which has no ids.
    """

    def __init__(self) -> None:
        # Two integers of key, then the place of its ids in the pool and their number.
        self._slots = np.zeros((1 << _SLOT_BITS, 4), dtype=np.uint64)
        self._pool = np.zeros(1 << 16, dtype=np.int32)
        self._pool_used = self._words = 0

    def look_up(self, words: WordList, source: WordSource) -> tuple[npt.NDArray[np.int32], _Ints]:
        """Ids of all words of a batch, and how many each has: shapes (total,) and (n,)."""
        if self._words > _MOST_WORDS:
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
        whole = self._uncuttable(words, keys[:, 1])
        if len(missing) or whole:
            self._find(words, missing, whole, source, hashed, places)
        counts = places[:, 1]
        ends = np.cumsum(counts)
        return self._pool[np.repeat(places[:, 0] - (ends - counts), counts) + np.arange(ends[-1])], counts

    def _find(
        self, words: WordList, missing: _Ints, whole: set[int], source: WordSource, hashed: _Hashed, places: _Ints
    ) -> None:
        """Have missing words encoded, and items that cannot be cut; write down where their ids are."""
        keys, first, second = hashed
        places[missing] = 0
        # Ids that are kept, each with its slot, then those for this batch only.
        kept: dict[int, tuple[int, bytes]] = {0: (0, b"")}
        for_now: list[tuple[int, bytes]] = []
        slots = np.where(self._is_free(first[missing]), first[missing], second[missing])
        slots = np.where(self._is_free(slots), slots, 0)
        kinds, raws = words.kinds[missing].tolist(), words.raws(missing)
        new = source.new_words({raw for raw, kind in zip(raws, kinds, strict=True) if kind == AFTER_BLANK})
        for word, kind, raw, slot in zip(missing.tolist(), kinds, raws, slots.tolist(), strict=True):
            if kind != CONSTANT and self._holds_blank(raw):
                whole.add(words.item_of(word))
                continue
            try:
                ids = (new.get(raw) if kind == AFTER_BLANK else None) or source.word(kind, raw)
            except Exception as error:
                source.fail(words.item_of(word), error)
                continue
            if len(raw) > _LONGEST_WORD or slot in kept:
                for_now.append((word, ids))
            else:
                kept[slot] = word, ids
        del kept[0]
        uncut: list[tuple[int, bytes]] = []
        for item in sorted(whole):
            try:
                uncut.append((int(words.first_of_item[item]), source.item(item)))
            except Exception as error:
                source.fail(item, error)

        found = [*kept.values(), *for_now, *uncut]
        at = np.array([word for word, _ in found], dtype=np.int64)
        where = self._write([ids for _, ids in found])
        cut, stored = len(found) - len(uncut), len(kept)
        places[at[:cut]] = where[:cut]
        for item in whole:
            places[words.first_of_item[item] : words.first_of_item[item + 1]] = 0
        places[at[cut:]] = where[cut:]
        self._slots[list(kept)] = np.concatenate((keys[at[:stored]], where[:stored].view(np.uint64)), axis=1)
        self._words += stored
        self._pool_used += int(where[:stored, 1].sum())

    def _uncuttable(self, words: WordList, high_keys: _Words) -> set[int]:
        """Items that may not be cut at each of their blanks."""
        return words.items_with_runs_of_blanks(high_keys)

    def _holds_blank(self, raw: bytes) -> bool:
        """Whether a word has a blank in another spelling, which makes its item uncuttable."""
        return _BLANK_BYTES in raw

    def _is_free(self, slots: _Words) -> npt.NDArray[np.bool_]:
        free: npt.NDArray[np.bool_] = self._slots[slots, 1] == 0
        return free

    def _write(self, pieces: list[bytes]) -> _Ints:
        """Write ids behind those that the pool keeps; their places and numbers, shape (n, 2)."""
        ids = np.frombuffer(b"".join(pieces), dtype=np.int32)
        end = self._pool_used + len(ids)
        if end > len(self._pool):
            self._pool = np.concatenate((self._pool, np.zeros(max(end, len(self._pool)), dtype=np.int32)))
        self._pool[self._pool_used : end] = ids
        counts = np.array([len(piece) for piece in pieces], dtype=np.int64) // ids.itemsize
        return np.stack((self._pool_used + np.cumsum(counts) - counts, counts), axis=1)


class PatternWordTable(WordTable):
    """The same for `cuts.PatternCuts`: there a blank behind white space begins no word, and only ` ` is a blank."""

    def _uncuttable(self, words: WordList, high_keys: _Words) -> set[int]:
        return words.items_with_runs_of_blanks(high_keys) | words.items_with_blanks_behind_white_space()

    def _holds_blank(self, raw: bytes) -> bool:
        return False


# What the last byte of a character of white space may be, but for the blank.
_SPACES = [char for char in map(chr, range(0x3001)) if char.isspace() and char != " "] + ["\u180e"]
_ENDS_SPACE = np.zeros(256, dtype=np.bool_)
_ENDS_SPACE[[char.encode()[-1] for char in _SPACES]] = True
_SPACE_BYTES = tuple(char.encode() for char in _SPACES)


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
