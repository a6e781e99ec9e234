"""Detect the record format of each input, once per run, during planning."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hdf5_writer.planning.inputs import InputFile, RecordReader
from preprocess.config import DatasetConfig
from preprocess.record_formats import MAX_INSPECTED, format_of, keys_by_format
from preprocess.records import parse_record
from preprocess.rejects import Rejected

# Longer records are not used for detection: parsing one could exhaust memory, which only a worker may risk.
_LONGEST_LOOKED_AT = 1 << 20


def with_formats(dataset: DatasetConfig, inputs: Sequence[InputFile], reader: RecordReader) -> tuple[InputFile, ...]:
    """Set the record format of each input: from the config, or detected from its first records.

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
    for lines in reader.read(np.arange(first, first + min(count, MAX_INSPECTED))):
        for line in lines:
            if line.size <= _LONGEST_LOOKED_AT:
                try:
                    yield parse_record(line.data)
                except Rejected:  # reported when its task reads it
                    continue


def formats_in_words(inputs: Sequence[InputFile]) -> str:
    """Return `llava`, or `3 llava, 1 messages` if the files differ, or an empty string if there are no records."""
    formats = [file.record_format for file in inputs if file.records]
    names = sorted(set(formats))
    return ", ".join(f"{formats.count(name)} {name}" for name in names) if len(names) > 1 else "".join(names)
