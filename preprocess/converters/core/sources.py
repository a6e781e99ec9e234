"""Read source records from the files of a dataset, each with its position."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from preprocess.converters.core.errors import InputError
from preprocess.converters.core.json_array import read_array
from preprocess.converters.core.reasons import SourceReason
from preprocess.folder_walk import walk_folder
from preprocess.rejects import Rejected

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class SourceRecord:
    """One record as published.

    Attributes:
        file: relative to the input folder.
        position: such as `line 7` (from 1), or `element 7` and `row 7` (from 0, as in JSON and Parquet).
        number: the number in `position`.
        value: the record, or a reject if it could not be read.
    """

    file: str
    position: str
    number: int
    value: Any


def elements(path: Path, *, key: str | None = None, bare: bool = True) -> Iterator[SourceRecord]:
    """The elements of a JSON array, streamed; see `read_array` for `key` and `bare`.

    Raises:
        InputError: the file is not in this format; the message names the byte.
    """
    for batch in read_array(path, key=key, bare=bare):
        for number, value in enumerate(batch.values, batch.first):
            yield SourceRecord(path.name, f"element {number}", number, value)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The non-empty lines of a file, numbered from 1, without line end and byte order mark."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            line = line.rstrip(b"\r\n")
            if line.strip():
                yield number, line


def json_lines(path: Path) -> Iterator[SourceRecord]:
    """The records of a JSONL file; an invalid line is a reject, and reading continues."""
    for number, line in lines(path):
        yield SourceRecord(path.name, f"line {number}", number, _parsed(line))


def tab_separated(path: Path) -> Iterator[SourceRecord]:
    """The rows of a TSV file without header, each a list of its columns; quotes have no special meaning."""
    for number, line in lines(path):
        try:
            value: object = line.decode("utf-8").split("\t")
        except UnicodeDecodeError as error:
            value = Rejected(SourceReason.NOT_UTF8, f"byte {error.start} of the line is 0x{line[error.start]:02x}")
        yield SourceRecord(path.name, f"line {number}", number, value)


def _parsed(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as undecodable:
            at = undecodable.start
            return Rejected(SourceReason.NOT_UTF8, f"byte {at} of the line is 0x{line[at]:02x}")
        return Rejected(SourceReason.NOT_JSON, f"{error.msg} at character {error.pos + 1}")


def folder(path: Path, argument: str) -> Path:
    """`path` if it is a folder.

    Raises:
        InputError: it is not; the message names the argument.
    """
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise InputError(f"{argument} is {path}, which {found}; expected a folder; check the path")
    return path


def file(path: Path, argument: str, expected: str = "a file") -> Path:
    """`path` if it is a file; `expected` describes the file in the error.

    Raises:
        InputError: it is not; the message names the argument.
    """
    if not path.is_file():
        found = "is a folder" if path.exists() else "does not exist"
        raise InputError(f"{argument} is {path}, which {found}; expected {expected}; check the path")
    return path


def files(paths: Sequence[Path], argument: str, suffix: str) -> list[tuple[Path, Path]]:
    """The given files, and the files with `suffix` in the given folders, at any depth, in order.

    Returns:
        for each file, (the folder that its name is relative to, its path).

    Raises:
        InputError: there are none; the message names the argument.
        OSError: a folder cannot be listed.
    """
    found = []
    for path in paths:
        if path.is_dir():
            every = (parent / name for parent, names in walk_folder(path, hidden=True) for name in names)
            inside = sorted(each for each in every if each.name.endswith(suffix) and each.is_file())
            if not inside:
                raise nothing_found(argument, path, f"{suffix} files")
            found += [(path, each) for each in inside]
        else:
            found.append((path.parent, file(path, argument, f"a {suffix} file, or a folder with such files")))
    return found


def nothing_found(argument: str, path: Path, expected: str, *subfolders: str) -> InputError:
    """The error for a folder without the expected files; it suggests the first of `subfolders` that exists.

    Raises:
        OSError: the folder cannot be listed, in which case `Path.glob` finds nothing.
    """
    os.scandir(path).close()
    existing = [str(path / name) for name in subfolders if (path / name).is_dir()]
    hint = f"; did you mean {existing[0]}?" if existing else "; give the folder that contains them"
    return InputError(f"{argument} is {path}, which has no {expected}{hint}")
