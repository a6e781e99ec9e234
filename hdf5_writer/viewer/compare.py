"""Compare the samples of the same source records in two datasets."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hdf5_writer.data_params import DataParams
from hdf5_writer.viewer.dataset import InspectedDataset
from hdf5_writer.viewer.decoding import TokenDecoder
from hdf5_writer.viewer.row import Row, RowSample
from hdf5_writer.viewer.runs import sample_runs

# `difflib` needs time proportional to the product of two lengths; above this product, everything between the first and
# the last difference counts as one difference.
_MAX_PAIRS = 1_000_000
_FILE_BITS = 40  # a key combines the number of a file with a line number of this many bits
_ROWS_KEPT = 64  # cached rows, since packed rows are read repeatedly
_NO_INTS = np.zeros(0, dtype=np.int64)

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Found:
    """A sample in one of the datasets; `changed` are (start, end) positions whose tokens differ."""

    row: Row
    sample: RowSample
    changed: Spans


class Pair(NamedTuple):
    """The samples of one source record in both datasets."""

    mine: Found
    other: Found


@dataclass
class Comparison:
    """Result of a comparison.

    Attributes:
        pairs: the first records that differ.
        compared, differing: numbers of records in both datasets, and of those that differ.
        only_here: number of records that the other dataset does not hold.
        is_complete: whether all selected rows were compared; otherwise the comparison stopped when `pairs` was full.
        settings: (key, value here, value there) of differing config keys.
    """

    pairs: list[Pair] = field(default_factory=list)
    compared: int = 0
    differing: int = 0
    only_here: int = 0
    is_complete: bool = True
    settings: list[tuple[str, Any, Any]] = field(default_factory=list)

    @property
    def nothing_in_common(self) -> str:
        """A sentence if no record is in both datasets; otherwise empty."""
        if self.compared:
            return ""
        return (
            f"no record in common: none of the {self.only_here:,} selected records is in the other dataset "
            "(records are matched by input file and line)"
        )


class RecordIndex:
    """Index from source records to the samples of a dataset; takes 20 bytes per sample."""

    def __init__(self, dataset: InspectedDataset, files: list[str]) -> None:
        """`files`: the file names used in lookups."""
        self._files = {name: number for number, name in enumerate(files)}
        numbers = np.array([self._files.get(name, -1) for name in dataset.files], dtype=np.int64)
        keys, rows, samples = [_NO_INTS], [_NO_INTS], [_NO_INTS.astype(np.int32)]
        for shard in range(dataset.shards):
            indices, lines, row, sample = dataset.sources(shard)
            keys.append((numbers[indices] << _FILE_BITS) | lines)
            rows.append(row)
            samples.append(sample.astype(np.int32))
        unsorted = np.concatenate(keys)
        order = np.argsort(unsorted, kind="stable")
        self._keys = unsorted[order]
        self._rows, self._samples = np.concatenate(rows)[order], np.concatenate(samples)[order]

    def find(self, file: str, line: int) -> tuple[int, int] | None:
        """Return (row number, sample number in the row) of a source record; None if it is not in the dataset."""
        key = (self._files[file] << _FILE_BITS) | line
        at = int(np.searchsorted(self._keys, key))
        if at == len(self._keys) or self._keys[at] != key:
            return None
        return int(self._rows[at]), int(self._samples[at])


def compare_samples(
    mine: InspectedDataset,
    other: InspectedDataset,
    numbers: Iterable[int],
    decoders: tuple[TokenDecoder, TokenDecoder],
    limit: int,
) -> Comparison:
    """Compare samples with those of the same source records in another dataset; their rows may differ.

    Args:
        mine, other: the datasets.
        numbers: rows of `mine` to compare.
        decoders: token decoders of `mine` and `other`.
        limit: stop after this number of differing pairs.
    """
    result = Comparison(settings=setting_differences(mine.params, other.params))
    index = RecordIndex(other, mine.files)
    same_ids = mine.params.tokenizer.digest == other.params.tokenizer.digest
    by_piece = not same_ids and all(decoder.has_tokenizer for decoder in decoders)
    read_twin = functools.lru_cache(maxsize=_ROWS_KEPT)(other.read)
    for row, sample in _samples(mine, numbers):
        if len(result.pairs) == limit:
            result.is_complete = False
            break
        there = index.find(sample.file, sample.line)
        if there is None:
            result.only_here += 1
            continue
        other_row = read_twin(there[0])
        twin = other_row.samples[there[1]]
        result.compared += 1
        left = _stream(row, sample, decoders[0] if by_piece else None)
        right = _stream(other_row, twin, decoders[1] if by_piece else None)
        if left[0] == right[0]:
            continue
        result.differing += 1
        changed, other_changed = _differences(left, right)
        result.pairs.append(Pair(Found(row, sample, changed), Found(other_row, twin, other_changed)))
    return result


def _samples(dataset: InspectedDataset, numbers: Iterable[int]) -> Iterator[tuple[Row, RowSample]]:
    for number in numbers:
        row = dataset.read(number)
        yield from ((row, sample) for sample in row.samples)


def setting_differences(mine: DataParams, other: DataParams) -> list[tuple[str, Any, Any]]:
    """Return the differences between two `data_params.json` that can affect rows."""
    found = []
    ours, theirs = mine.config.model_dump(), other.config.model_dump()
    for section in ("processor", "dataset"):
        for key, value in ours[section].items():
            there = theirs[section].get(key)
            if value != there:
                found.append((f"{section}.{key}", value, there))
    if mine.tokenizer.digest != other.tokenizer.digest:
        found.append(("tokenizer digest", mine.tokenizer.digest[:12], other.tokenizer.digest[:12]))
    if mine.package_version != other.package_version:
        found.append(("llava-hdf5", mine.package_version, other.package_version))
    return found


_Stream = tuple[list[tuple[object, bool]], list[int]]


def _stream(row: Row, sample: RowSample, decoder: TokenDecoder | None) -> _Stream:
    """Return (token, is supervised) of each token of a sample, and the positions; an image counts as one token."""
    tokens: list[tuple[object, bool]] = []
    positions: list[int] = []
    for run in sample_runs(row, sample):
        if run.image is not None:
            tokens.append((run.image.path, False))
            positions.append(run.start)
        for offset, id_ in enumerate(run.ids):
            tokens.append((id_ if decoder is None else decoder.piece(id_), run.kind == "supervised"))
            positions.append(run.start + offset)
    return tokens, positions


def _differences(left: _Stream, right: _Stream) -> tuple[Spans, Spans]:
    a, b = left[0], right[0]
    head = 0
    while head < min(len(a), len(b)) and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    middle_a, middle_b = a[head : len(a) - tail], b[head : len(b) - tail]
    if len(middle_a) * len(middle_b) > _MAX_PAIRS:
        ranges = [(0, len(middle_a), 0, len(middle_b))]
    else:
        matcher = difflib.SequenceMatcher(None, middle_a, middle_b, autojunk=False)
        ranges = [(a1, a2, b1, b2) for tag, a1, a2, b1, b2 in matcher.get_opcodes() if tag != "equal"]
    return (
        _spans(left[1], ((head + a1, head + a2) for a1, a2, _, _ in ranges)),
        _spans(right[1], ((head + b1, head + b2) for _, _, b1, b2 in ranges)),
    )


def _spans(positions: list[int], ranges: Iterable[tuple[int, int]]) -> Spans:
    return tuple((positions[start], positions[end - 1] + 1) for start, end in ranges if end > start)
