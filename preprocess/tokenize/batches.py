"""Encode batches of records: all words of a batch are looked up together in a hash table of numpy arrays.

The ids are those of `Encoder`, which encodes every new word. It also encodes what cannot be split into single words:
texts with runs of spaces, and all records of a tokenizer without a splitter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from preprocess.samples import SampleBatch, batch_of, empty_batch, join_batches
from preprocess.segments import ConstantSegments, Mark, Segment, Special, Text
from preprocess.tokenize.encoder import Constant, Encoder
from preprocess.tokenize.splitters import SentencePieceSplitter, Splitter
from preprocess.tokenize.word_table import AFTER_SPACE, CONSTANT, NO_SPACE, PatternWordTable, WordTable, split_at_spaces

# Module-level names are faster to look up than members of an enum.
_BOS, _EOS, _IMAGE, _IMAGE_TOKEN = Mark.BOS, Mark.EOS, Mark.IMAGE, Mark.IMAGE_TOKEN
# The arrays of a batch need about 100 bytes per word.
_LARGEST_RECORD = 1 << 20  # characters
_Ints = npt.NDArray[np.int64]


class BatchEncoder:
    """Encoder of the segments of many records. Do not share it between threads."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._splitter = encoder.tokenizer.splitter
        self._table = WordTable() if isinstance(self._splitter, SentencePieceSplitter) else PatternWordTable()
        self._constants: dict[Constant, str] = {}
        self._constant_ids: list[bytes] = []
        self._bos, self._eos = self._constant(_BOS), self._constant(_EOS)

    def encode(self, records: Sequence[Sequence[Segment]]) -> tuple[SampleBatch, dict[int, Exception]]:
        """Encode rendered records, with the ids of `Encoder.encode`.

        Returns:
            the batch, in which a failed record has no ids; and the error of each failed record, for example
            `Rejected` with TOO_LONG.
        """
        failed: dict[int, Exception] = {}
        separate: dict[int, SampleBatch] = {}
        items = _Items()
        for number, segments in enumerate(records):
            if not (self._splitter is not None and self._collect(segments, self._splitter, items)):
                items.drop_open_record()
                try:
                    separate[number] = batch_of(self._encoder.encode(segments))
                except Exception as error:  # the caller knows the record and decides
                    failed[number] = error
            items.close_record()
        batch = self._look_up(items, failed)
        for number in failed:
            separate[number] = empty_batch(1)
        if separate:
            batch = join_batches([separate.get(i) or batch.part(i, i + 1) for i in range(len(records))])
        return batch, failed

    def _collect(self, segments: Sequence[Segment], splitter: Splitter, items: _Items) -> bool:
        """Append the items of a record; False if adjacent texts cannot be split, and for a very long record."""
        texts, kinds, supervised = items.texts, items.kinds, items.supervised
        start_kind = AFTER_SPACE if splitter.dummy_prefix else NO_SPACE
        can_split, prefix_after_special = splitter.can_split_between, self._encoder.tokenizer.prefix_after_special
        starts_text, before, size = True, None, 0
        for position, segment in enumerate(segments):
            if type(segment) is Text:
                text, is_supervised, constant = segment
                if before is not None and not can_split(before, text):
                    return False
                before = text
                size += len(text)
                if constant:
                    texts.append(self._constant((text, starts_text)))
                    kinds.append(CONSTANT)
                else:
                    texts.append(text)
                    kinds.append(start_kind if starts_text and text else NO_SPACE)
                supervised.append(is_supervised)
                starts_text = False
                continue
            before = None
            if type(segment) is Special or type(segment) is ConstantSegments:
                starts_text = segment.starts_text
                texts.append(self._constant(segment))
                kinds.append(CONSTANT)
                supervised.append(segment.supervised)
            elif segment is _IMAGE or segment is _IMAGE_TOKEN:
                items.image_before.append(len(texts))
                starts_text = segment is _IMAGE or prefix_after_special
            else:
                starts_text = segment is _BOS and position == 0
                texts.append(self._bos if segment is _BOS else self._eos)
                kinds.append(CONSTANT)
                supervised.append(segment is _EOS)
        return size <= _LARGEST_RECORD

    def _constant(self, key: Constant) -> str:
        """The number of a constant, as a word of the table (kind CONSTANT)."""
        number = self._constants.get(key)
        if number is None:
            number = self._constants[key] = str(len(self._constants))
            self._constant_ids.append(self._encoder.encode_constant(key))
        return number

    def _look_up(self, items: _Items, failed: dict[int, Exception]) -> SampleBatch:
        texts = items.texts
        joined = " ".join(texts)
        if joined.isascii():
            data, lengths = joined.encode(), np.fromiter(map(len, texts), np.int64, len(texts))
        else:
            encoded = [text.encode() for text in texts]
            data, lengths = b" ".join(encoded), np.fromiter(map(len, encoded), np.int64, len(texts))
        image_offsets = np.array(items.image_offsets)
        if not texts:
            nothing = empty_batch(len(items.offsets) - 1)
            return nothing._replace(image_at=np.zeros(image_offsets[-1], np.int64), image_offsets=image_offsets)
        words = split_at_spaces(data, lengths, items.kinds)

        ids, counts = self._table.look_up(words, _EncoderWords(self._encoder, self._constant_ids, items, failed))
        ends = np.cumsum(counts)
        # Offsets of the items in `ids`.
        at = np.append((ends - counts)[words.item_offsets[:-1]], ends[-1])
        supervised = np.repeat(np.array(items.supervised), np.diff(at))
        offsets = at[np.array(items.offsets)]
        image_at = at[np.array(items.image_before, np.int64)] - np.repeat(offsets[:-1], np.diff(image_offsets))
        return SampleBatch(ids, supervised, offsets, image_at, image_offsets)


class _Items:
    """Flat lists of the texts and constants of a batch."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.kinds: list[int] = []
        self.supervised: list[bool] = []
        self.offsets = [0]
        self.image_before: list[int] = []  # for each image, the item after it
        self.image_offsets = [0]

    def drop_open_record(self) -> None:
        for items in (self.texts, self.kinds, self.supervised):
            del items[self.offsets[-1] :]
        del self.image_before[self.image_offsets[-1] :]

    def close_record(self) -> None:
        self.offsets.append(len(self.texts))
        self.image_offsets.append(len(self.image_before))

    def record_of(self, item: int) -> int:
        return int(np.searchsorted(self.offsets, item, side="right")) - 1


class _EncoderWords(NamedTuple):
    """Source of ids that are missing in the table, for the items of one batch."""

    encoder: Encoder
    constants: list[bytes]
    items: _Items
    failed: dict[int, Exception]

    def new_words(self, raw: set[bytes]) -> dict[bytes, bytes]:
        encoded = self.encoder.encode_new_words(map(bytes.decode, raw))
        return {word.encode(): ids for word, ids in encoded.items()}

    def word(self, kind: int, raw: bytes) -> bytes:
        if kind == CONSTANT:
            return self.constants[int(raw)]
        return self.encoder.encode_word(raw.decode(), after_space=kind == AFTER_SPACE)

    def item(self, item: int) -> bytes:
        return self.encoder.encode_text(self.items.texts[item], self.items.kinds[item] == AFTER_SPACE)

    def fail(self, item: int, error: Exception) -> None:
        """Mark the record of an item without ids as failed."""
        self.failed.setdefault(self.items.record_of(item), error)
