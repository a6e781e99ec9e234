"""Which format the records of each input have, decided once, when planning."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hdf5_writer.planning.inputs import InputFile, RecordReader
from preprocess.config import DatasetConfig
from preprocess.record_formats import MOST_LOOKED_AT, format_of, keys_by_format
from preprocess.records import parse_record
from preprocess.rejects import Rejected

# Longer records do not count: they are parsed in workers only, whose memory they may fill.
_LONGEST_LOOKED_AT = 1 << 20


def with_formats(dataset: DatasetConfig, inputs: Sequence[InputFile], reader: RecordReader) -> tuple[InputFile, ...]:
    """The inputs with the format of their records: the one of the config, or what the first records of each look like.

    Raises:
        inputs.InputChangedError, OSError: see `RecordReader.read`.
    """
    if dataset.record_format != "auto":
        return tuple(dataclasses.replace(file, record_format=dataset.record_format) for file in inputs)
    keys = keys_by_format(dataset)
    decided, first = [], 0
    for file in inputs:
        found = format_of(_first_records(reader, first, file.records), keys)
        decided.append(dataclasses.replace(file, record_format=found))
        first += file.records
    return tuple(decided)


def _first_records(reader: RecordReader, first: int, count: int) -> Iterator[dict[str, Any]]:
    for lines in reader.read(np.arange(first, first + min(count, MOST_LOOKED_AT))):
        for line in lines:
            if line.size <= _LONGEST_LOOKED_AT:
                try:
                    yield parse_record(line.data)
                except Rejected:  # listed when its turn comes
                    continue


def formats_in_words(inputs: Sequence[InputFile]) -> str:
    """`llava`, or `3 llava, 1 messages` where files differ; empty without records."""
    formats = [file.record_format for file in inputs if file.records]
    names = sorted(set(formats))
    return ", ".join(f"{formats.count(name)} {name}" for name in names) if len(names) > 1 else "".join(names)
