"""Find the input files and read their records by number."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdf5_writer.layout import OutputLayout
from preprocess.config import ConfigError, RecordFormat
from preprocess.folder_walk import walk_folder
from preprocess.regular_files import unreadable

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
REJECTS_SUFFIX = ".rejects.jsonl"
_LOOKS_LIKE_DATA = (".json", ".parquet", ".csv", ".tsv", ".bz2", ".xz", ".gz", ".zst", ".zip", ".tar")
# Bounds on memory in bytes: lines read at a time, and the longest record (LLaVA records have about 1 kB).
_MAX_READ = 8 << 20
LONGEST_LINE = 16 << 20


class InputChangedError(RuntimeError):
    """An input file has changed since the plan was made."""


@dataclass(frozen=True)
class InputFile:
    """One input.

    Attributes:
        path: relative to the input folder, with `/`; the file name if `setup.input_dir` is a single file.
        bytes, mtime_ns: size and modification time of the file on disk (of the compressed file, if it is compressed).
        records: non-blank lines, limited by `--limit`.
        crc32: CRC-32 of the uncompressed content, up to where the index stopped reading.
        record_format: format of its records.
    """

    path: str
    bytes: int
    mtime_ns: int
    records: int = 0
    crc32: int = 0
    record_format: RecordFormat = "llava"

    @property
    def is_compressed(self) -> bool:
        """Whether it is a `.gz` or `.zst` file: these are unpacked into the work folder for random access to lines."""
        return not self.path.lower().endswith(".jsonl")


def find_inputs(input_dir: Path, output_dir: Path) -> tuple[list[InputFile], list[str]]:
    """Find the input files in a folder, recursively and sorted by path, or take the one file that is given.

    Returns:
        the inputs, and the paths of other files in the folder, which are not read.

    Raises:
        ConfigError: no such folder, a folder that cannot be listed, or no JSONL file in it.
    """
    if os.path.realpath(input_dir) == os.path.realpath(output_dir):
        raise ConfigError(f"setup.output_dir {output_dir}: is also the input folder; give a different folder")
    try:
        root = input_root(input_dir)
        if input_dir.is_dir():
            found = sorted(_walk(input_dir, output_dir))
        elif input_dir.exists():
            found = [input_dir.name]
        else:
            raise ConfigError(f"setup.input_dir {input_dir}: no such file or folder; give one that holds .jsonl files")
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; make the folder readable") from None
    paths = [path for path in found if _is_input(path)]
    others = [path for path in found if not _is_input(path)]
    if not paths:
        json_files = [path for path in others if path.lower().endswith(".json")]
        if json_files:
            raise ConfigError(
                f"setup.input_dir {input_dir}: {json_files[0]} is JSON, expected JSONL (one record a line); "
                f"run `convert_json2jsonl --input_dir {root}` and use the folder it writes"
            )
        raise ConfigError(f"setup.input_dir {input_dir}: found no input file, expected {', '.join(SUFFIXES)}")
    return [_input_file(root, path) for path in paths], others


def _input_file(root: Path, path: str) -> InputFile:
    try:
        path.encode()
        found = os.stat(root / path)
    except UnicodeEncodeError:
        raise ConfigError(
            f"{os.fsencode(root / path)!r}: the name is not UTF-8, so it cannot be recorded in the list of inputs; "
            "rename it, or use a UTF-8 locale if other programs show the name correctly"
        ) from None
    except OSError as error:
        raise ConfigError(f"{root / path}: {unreadable(error, 'correct or remove it')}") from None
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{root / path}: is not a regular file; copy it to one first")
    file = InputFile(path, found.st_size, found.st_mtime_ns)
    if file.is_compressed and not file.bytes:
        raise ConfigError(f"{root / path}: has 0 bytes, so it is not a compressed file; replace or remove it")
    return file


def unread_data(others: Sequence[str]) -> list[str]:
    """Select the files that are not inputs but look like data, which the user may have expected to be read."""
    return [path for path in others if path.lower().endswith(_LOOKS_LIKE_DATA) and not path.endswith(REJECTS_SUFFIX)]


def inputs_with_same_stem(files: Sequence[InputFile]) -> list[tuple[str, str]]:
    """Return pairs of inputs such as `a.jsonl` and `a.jsonl.gz`, which probably hold the same data."""
    by_stem: dict[str, list[str]] = {}
    for file in files:
        by_stem.setdefault(re.sub(r"\.jsonl(\.gz|\.zst)?$", "", file.path, flags=re.IGNORECASE), []).append(file.path)
    return [(paths[0], other) for paths in by_stem.values() for other in paths[1:]]


def _is_input(path: str) -> bool:
    """Return whether a file is an input; the `.rejects.jsonl` files of the converters are not."""
    return path.lower().endswith(SUFFIXES) and not path.endswith(REJECTS_SUFFIX)


def input_root(input_dir: Path) -> Path:
    """Return the folder that the paths of inputs are relative to."""
    return input_dir if input_dir.is_dir() else input_dir.parent


def _walk(folder: Path, output_dir: Path) -> Iterator[str]:
    """Yield relative paths of the files below a folder, except hidden files and those that runs have written.

    The files of this run are left out by their names even before they exist, so that a rerun finds the same inputs.
    """
    output = os.path.realpath(output_dir)
    for parent, names in walk_folder(folder, hidden=False):
        layout = OutputLayout(parent)
        is_output = os.path.realpath(parent) == output or layout.plan.exists() or layout.data_params.exists()
        for name in names:
            if not (is_output and layout.is_public_name(name)):
                yield (parent / name).relative_to(folder).as_posix()


class Line(NamedTuple):
    """The bytes of one record and its source; a line longer than LONGEST_LINE is cut to that many bytes.

    Attributes:
        file: index of the input.
        number: line number from 1.
        data: the bytes of the line.
        size: length of the whole line in bytes.
    """

    file: int
    number: int
    data: bytes
    size: int


class RecordReader:
    """Reads records by number, in the numbering of the index (0 is the first record of the first file)."""

    def __init__(self, root: Path, inputs: Sequence[InputFile], layout: OutputLayout) -> None:
        self._root, self._inputs, self._layout = root, inputs, layout
        self._ends = np.cumsum([file.records for file in inputs])
        self._has_lines = layout.lines.exists()

    def locate(self, records: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the index of the file and the line number (from 1) of each record, both (n,) int64."""
        files = np.searchsorted(self._ends, records, side="right")
        if self._has_lines:
            return files, np.asarray(np.memmap(self._layout.lines, dtype="<i8", mode="r")[records])
        first = np.concatenate(([0], self._ends))[files]
        return files, records - first + 1

    def read(self, records: npt.NDArray[np.int64]) -> Iterator[list[Line]]:
        """Yield the lines of some records in the order given, in groups that fit into a fixed amount of memory.

        Within a group, the lines are read from disk in file order.

        Raises:
            InputChangedError: the size or modification time of a file differs from the plan, or it became unreadable.
            OSError: a file cannot be read.
        """
        files, numbers = self.locate(records)
        offsets = np.memmap(self._layout.offsets, dtype="<i8", mode="r")
        starts, sizes = offsets[records + files], offsets[records + files + 1] - offsets[records + files]
        kept = np.cumsum(np.minimum(sizes, LONGEST_LINE))
        start = 0
        while start < len(records):
            budget = (kept[start - 1] if start else 0) + _MAX_READ
            stop = max(start + 1, int(np.searchsorted(kept, budget, side="right")))
            yield self._read_some(files[start:stop], numbers[start:stop], starts[start:stop], sizes[start:stop])
            start = stop

    def _read_some(
        self,
        files: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64],
        starts: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
    ) -> list[Line]:
        lines: list[Line | None] = [None] * len(files)
        handle, opened = -1, -1
        try:
            for i in np.lexsort((starts, files)).tolist():
                file, size = int(files[i]), int(sizes[i])
                if file != opened:
                    if handle >= 0:
                        os.close(handle)
                        handle = -1
                    handle, opened = self._open(file), file
                data = _read_at(handle, int(starts[i]), min(size, LONGEST_LINE), self._inputs[file].path)
                lines[i] = Line(file, int(numbers[i]), data, size)
        finally:
            if handle >= 0:
                os.close(handle)
        return lines  # type: ignore[return-value]

    def _open(self, number: int) -> int:
        file = self._inputs[number]
        path = self._root / file.path
        try:
            stat = os.stat(path)
            if (stat.st_size, stat.st_mtime_ns) != (file.bytes, file.mtime_ns):
                raise InputChangedError(
                    f"{path}: was changed after it was planned ({file.bytes} bytes then, {stat.st_size} now); "
                    "restore it, or rewrite the dataset with --overwrite"
                )
            return os.open(self._layout.unpacked(number) if file.is_compressed else path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise InputChangedError(
                f"{error.filename}: was removed after planning; restore it, or rewrite the dataset with --overwrite"
            ) from None
        except PermissionError as error:
            raise InputChangedError(f"{error.filename}: {unreadable(error, '')}") from None


def _read_at(handle: int, offset: int, size: int, path: str) -> bytes:
    data = os.pread(handle, size, offset)
    while len(data) < size:
        more = os.pread(handle, size - len(data), offset + len(data))
        if not more:
            raise InputChangedError(f"{path}: was truncated after it was planned; restore it, or use --overwrite")
        data += more
    return data
