"""The same source records in two datasets, where they differ."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hdf5_writer.data_params import DataParams
from hdf5_writer.viewer.dataset import InspectedDataset, Row
from hdf5_writer.viewer.decoding import Speller
from hdf5_writer.viewer.runs import row_runs

# `difflib` takes the product of two lengths: past this, all between the first and the last difference is one.
_MOST_PAIRS = 1_000_000
_FILE_BITS = 40  # a key is the number of a file and, in so many bits, a line

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pair:
    """One source record in both datasets; `changed` are (start, end) positions whose tokens differ."""

    row: Row
    other: Row
    changed: Spans
    other_changed: Spans


@dataclass
class Comparison:
    """What was found.

    Attributes:
        pairs: the first records that differ.
        compared, differing: records that both datasets hold, and those of them that differ.
        only_here: records that the other one does not hold.
        is_complete: all rows that were asked for were looked at; otherwise it ended when `pairs` was full.
        settings: (key, here, there) of what differs between the two configs.
    """

    pairs: list[Pair] = field(default_factory=list)
    compared: int = 0
    differing: int = 0
    only_here: int = 0
    is_complete: bool = True
    settings: list[tuple[str, Any, Any]] = field(default_factory=list)


class RecordIndex:
    """Source → row number of a dataset; 24 bytes a sample."""

    def __init__(self, dataset: InspectedDataset, files: list[str]) -> None:
        """`files`: the names that sources are looked up by."""
        self._files = {name: number for number, name in enumerate(files)}
        numbers = np.array([self._files.get(name, -1) for name in dataset.files], dtype=np.int64)
        parts, rows = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for shard in range(dataset.shards):
            indices, lines, row = dataset.sources(shard)
            parts.append((numbers[indices] << _FILE_BITS) | lines)
            rows.append(row)
        keys = np.concatenate(parts)
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = keys[order], np.concatenate(rows)[order]

    def find(self, file: str, line: int) -> int | None:
        """The number of the row of a source record."""
        key = (self._files[file] << _FILE_BITS) | line
        at = int(np.searchsorted(self._keys, key))
        return int(self._rows[at]) if at < len(self._keys) and self._keys[at] == key else None


def compare_rows(
    mine: InspectedDataset,
    other: InspectedDataset,
    numbers: Iterable[int],
    spellers: tuple[Speller, Speller],
    most: int,
) -> Comparison:
    """Compare rows with the rows that the other dataset made of the same source records.

    Args:
        mine, other: the datasets.
        numbers: rows of `mine` to look at.
        spellers: of `mine` and `other`.
        most: pairs to find before stopping.
    """
    result = Comparison(settings=setting_differences(mine.params, other.params))
    index = RecordIndex(other, mine.files)
    same_ids = mine.params.tokenizer.digest == other.params.tokenizer.digest
    by_piece = not same_ids and all(speller.knows_text for speller in spellers)
    for number in numbers:
        if len(result.pairs) == most:
            result.is_complete = False
            break
        row = mine.read(number)
        there = index.find(row.file, row.line)
        if there is None:
            result.only_here += 1
            continue
        twin = other.read(there)
        result.compared += 1
        left = _stream(row, spellers[0] if by_piece else None)
        right = _stream(twin, spellers[1] if by_piece else None)
        if left[0] == right[0]:
            continue
        result.differing += 1
        changed, other_changed = _differences(left, right)
        result.pairs.append(Pair(row, twin, changed, other_changed))
    return result


def setting_differences(mine: DataParams, other: DataParams) -> list[tuple[str, Any, Any]]:
    """What of two `data_params.json` can make rows differ."""
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


def _stream(row: Row, speller: Speller | None) -> _Stream:
    """(token, is supervised) of a row and their positions; the image counts as one token, whatever its slots."""
    tokens: list[tuple[object, bool]] = []
    positions: list[int] = []
    for run in row_runs(row):
        if run.kind == "image":
            tokens.append((row.image_path, False))
            positions.append(run.start)
        for offset, id_ in enumerate(run.ids):
            tokens.append((id_ if speller is None else speller.piece(id_), run.kind == "supervised"))
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
    if len(middle_a) * len(middle_b) > _MOST_PAIRS:
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
