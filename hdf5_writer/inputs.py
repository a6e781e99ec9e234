"""The input files: which they are, where each record begins, and reading records by number."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import zstandard
from isal import igzip, isal_zlib

from hdf5_writer.layout import OutputLayout
from preprocess.config import ConfigError
from preprocess.records import UTF8_BOM

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
REJECTS_SUFFIX = ".rejects.jsonl"
_BLOCK = 8 << 20
# Bounds on memory: lines read at a time, and what may be one record (LLaVA's have about a kilobyte).
_MOST_READ = 64 << 20
LONGEST_LINE = 16 << 20
_JSON_BLANKS = b" \t\r\n"
_BLANK_TABLE = np.zeros(256, dtype=bool)
_BLANK_TABLE[list(_JSON_BLANKS)] = True


class InputChangedError(RuntimeError):
    """An input file is not the one that was planned."""


@dataclass(frozen=True)
class InputFile:
    """One input.

    Attributes:
        path: relative to the input folder, with `/`; the name alone where the input is one file.
        bytes, mtime_ns: size and time of the file as it stands on disk (compressed where it is).
        records: lines that are not blank, or those of them that `--limit` takes.
        crc32: over the unpacked content as far as it was read for the index.
    """

    path: str
    bytes: int
    mtime_ns: int
    records: int = 0
    crc32: int = 0

    @property
    def is_compressed(self) -> bool:
        """A `.gz` or `.zst`, which is unpacked into the work folder, since a shuffle reads lines in any order."""
        return not self.path.endswith(".jsonl")


def find_inputs(input_dir: Path, output_dir: Path) -> tuple[list[InputFile], list[str]]:
    """The input files in a folder, searched recursively and sorted by path, or the one file.

    Returns:
        the inputs, and the paths of other files in the folder, which are not read.

    Raises:
        ConfigError: no such folder, or no JSONL file in it.
    """
    if input_dir.is_file():
        root, paths, others = input_dir.parent, [input_dir.name], []
        if not _is_input(input_dir.name):
            paths, others = [], [input_dir.name]
    elif input_dir.is_dir():
        root = input_dir
        found = sorted(_walk(input_dir, output_dir))
        paths = [path for path in found if _is_input(path)]
        others = [path for path in found if not _is_input(path)]
    else:
        raise ConfigError(f"setup.input_dir {input_dir}: no such file or folder; give one that holds .jsonl files")
    if not paths:
        json_files = [path for path in others if path.endswith(".json")]
        if json_files:
            raise ConfigError(
                f"setup.input_dir {input_dir}: {json_files[0]} is JSON, expected JSONL (one record a line); "
                f"run `convert_json2jsonl --input_dir {root}` and use the folder it writes"
            )
        raise ConfigError(f"setup.input_dir {input_dir}: found no input file, expected {', '.join(SUFFIXES)}")
    try:
        stats = [os.stat(root / path) for path in paths]
    except OSError as error:
        raise ConfigError(f"setup.input_dir {input_dir}: {error.filename} cannot be read ({error.strerror})") from None
    return [InputFile(path, s.st_size, s.st_mtime_ns) for path, s in zip(paths, stats, strict=True)], others


def _is_input(path: str) -> bool:
    """Lists of rejected records, which the converters write beside their output, are none."""
    return path.endswith(SUFFIXES) and not path.endswith(REJECTS_SUFFIX)


def input_root(input_dir: Path) -> Path:
    """The folder that the paths of inputs are relative to."""
    return input_dir.parent if input_dir.is_file() else input_dir


def _walk(folder: Path, output_dir: Path) -> Iterator[str]:
    """Relative paths of the files below a folder, through links, hidden ones and the output left out."""
    output, seen = os.path.realpath(output_dir), set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != output
        ]
        yield from (Path(parent, name).relative_to(folder).as_posix() for name in names if not name.startswith("."))


@dataclass(frozen=True)
class IndexDigests:
    """sha256 of the index files; `lines` is None where every file has its records on lines 1 to n."""

    offsets: str
    lines: str | None


def build_index(
    root: Path, inputs: Sequence[InputFile], layout: OutputLayout, limit: int | None
) -> tuple[list[InputFile], IndexDigests]:
    """Read every input once; write the index, and unpacked copies of compressed inputs, into the work folder.

    Returns:
        the inputs with their record counts, and the digests of the index.

    Raises:
        ConfigError: an input cannot be read or unpacked.
        OSError: the work folder cannot be written.
    """
    counted: list[InputFile] = []
    left = limit
    digests = hashlib.sha256(), hashlib.sha256()
    consecutive = True
    with layout.offsets.open("wb") as offsets_file, layout.lines.open("wb") as lines_file:
        for number, file in enumerate(inputs):
            records, end, crc = 0, 0, 0
            if left is None or left > 0:
                scanner = _LineScanner()
                for block in _blocks(root / file.path, file, layout.unpacked(number)):
                    crc = isal_zlib.crc32(block, crc)
                    offsets, lines = scanner.feed(block)
                    end = scanner.position
                    if left is not None and records + len(offsets) > left:
                        keep = left - records
                        end = int(offsets[keep])
                        offsets, lines = offsets[:keep], lines[:keep]
                    consecutive &= bool((lines == np.arange(records + 1, records + 1 + len(lines))).all())
                    records += len(offsets)
                    for out, digest, values in zip((offsets_file, lines_file), digests, (offsets, lines), strict=True):
                        out.write(values.data)
                        digest.update(values.data)
                    if left is not None and records == left and len(offsets) < scanner.last_count:
                        break
                if left is not None:
                    left -= records
            sentinel = np.array([end], dtype="<i8")
            offsets_file.write(sentinel.data)
            digests[0].update(sentinel.data)
            counted.append(InputFile(file.path, file.bytes, file.mtime_ns, records, crc))
    if consecutive:
        layout.lines.unlink()
    return counted, IndexDigests(digests[0].hexdigest(), None if consecutive else digests[1].hexdigest())


class _LineScanner:
    """Finds the lines that are not blank in a stream of blocks."""

    def __init__(self) -> None:
        self.position = 0  # bytes seen
        self.last_count = 0  # records of the last block
        self._line_start, self._line_number, self._has_content = 0, 1, False

    def feed(self, block: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Offset and number of each line whose first content is in this block."""
        base = self.position
        self.position += len(block)
        if base == 0 and block.startswith(UTF8_BOM):
            block, base = block[3:], 3
            self._line_start = 3
        data = np.frombuffer(block, dtype=np.uint8)
        newlines = np.flatnonzero(data == 10)
        # Segments: the rest of the line under way, then one for each newline.
        starts = np.concatenate(([0], newlines + 1))
        ends = np.concatenate((newlines, [len(block)]))
        filled = starts < ends
        first = data[np.minimum(starts, max(len(block) - 1, 0))] if len(block) else np.zeros(1, dtype=np.uint8)
        unsure = np.flatnonzero(filled & _BLANK_TABLE[first])
        for i in unsure:  # begins with a blank: rare
            filled[i] = bool(block[starts[i] : ends[i]].strip(_JSON_BLANKS))
        line_starts = starts + base
        line_starts[0] = self._line_start
        numbers = self._line_number + np.arange(len(starts))
        new = filled.copy()
        new[0] = filled[0] and not self._has_content
        self._has_content = bool(filled[-1] or (len(starts) == 1 and self._has_content))
        self._line_start, self._line_number = int(line_starts[-1]), int(numbers[-1])
        self.last_count = int(new.sum())
        return line_starts[new].astype("<i8"), numbers[new].astype("<i8")


def _blocks(path: Path, file: InputFile, unpacked: Path) -> Iterator[bytes]:
    """The content of an input in blocks; a compressed one is copied to `unpacked` on the way."""
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
        if path.name.endswith(".gz"):
            gunzipped: BinaryIO = igzip.open(raw, "rb")
            blocks = _read_blocks(gunzipped)
        else:
            blocks = _read_blocks(raw) if not file.is_compressed else _unzstd(raw)
        copy = stack.enter_context(unpacked.open("wb")) if file.is_compressed else None
        while True:
            try:
                block = next(blocks, b"")
            except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
                raise ConfigError(
                    f"{path}: cannot be read to its end ({' '.join(str(error).split())}); replace the file"
                ) from None
            if not block:
                return
            if copy is not None:
                copy.write(block)
            yield block


def _read_blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block


def _unzstd(stream: BinaryIO) -> Iterator[bytes]:
    """All frames of a zstd stream. The library's own reader takes a stream that breaks off for one that ends."""
    decompressor = zstandard.ZstdDecompressor()
    frame = None
    while data := stream.read(1 << 17):
        while data:
            frame = frame or decompressor.decompressobj()
            block = frame.decompress(data)
            data = frame.unused_data
            if frame.eof:
                frame = None
            if block:
                yield block
    if frame is not None:
        raise EOFError("it breaks off inside a zstd frame")


class Line(NamedTuple):
    """One record's bytes and where they came from; of a line longer than LONGEST_LINE the beginning alone."""

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
        """(index of the file, line number from 1) of each record."""
        files = np.searchsorted(self._ends, records, side="right")
        if self._has_lines:
            return files, np.asarray(np.memmap(self._layout.lines, dtype="<i8", mode="r")[records])
        first = np.concatenate(([0], self._ends))[files]
        return files, records - first + 1

    def read(self, records: npt.NDArray[np.int64]) -> Iterator[list[Line]]:
        """The lines of some records, in the order given, as many at a time as fit into a fixed amount of memory.

        On disk the lines of a time are visited in the order of the files.

        Raises:
            InputChangedError: a file has another size or time than when it was planned.
            OSError: a file cannot be read.
        """
        files, numbers = self.locate(records)
        offsets = np.memmap(self._layout.offsets, dtype="<i8", mode="r")
        begins, sizes = offsets[records + files], offsets[records + files + 1] - offsets[records + files]
        kept = np.cumsum(np.minimum(sizes, LONGEST_LINE))
        start = 0
        while start < len(records):
            budget = (kept[start - 1] if start else 0) + _MOST_READ
            stop = max(start + 1, int(np.searchsorted(kept, budget, side="right")))
            yield self._read_some(files[start:stop], numbers[start:stop], begins[start:stop], sizes[start:stop])
            start = stop

    def _read_some(
        self,
        files: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64],
        begins: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
    ) -> list[Line]:
        lines: list[Line | None] = [None] * len(files)
        handle, opened = -1, -1
        try:
            for i in np.lexsort((begins, files)).tolist():
                file, size = int(files[i]), int(sizes[i])
                if file != opened:
                    if handle >= 0:
                        os.close(handle)
                        handle = -1
                    handle, opened = self._open(file), file
                data = _read_at(handle, int(begins[i]), min(size, LONGEST_LINE))
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
                    "run the same command again to plan anew"
                )
            return os.open(self._layout.unpacked(number) if file.is_compressed else path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise InputChangedError(
                f"{error.filename}: was removed after it was planned; put it back, or run the same command again"
            ) from None


def _read_at(handle: int, offset: int, size: int) -> bytes:
    data = os.pread(handle, size, offset)
    while len(data) < size:
        more = os.pread(handle, size - len(data), offset + len(data))
        if not more:
            raise InputChangedError(f"an input ended {size - len(data)} bytes early; run the same command again")
        data += more
    return data
