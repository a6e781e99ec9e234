"""Index the byte offset of every record in one pass over the inputs, unpacking compressed inputs in the same pass."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import zstandard
from isal import igzip, isal_zlib

from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.inputs import InputFile
from preprocess.config import ConfigError
from preprocess.records import UTF8_BOM
from preprocess.regular_files import unreadable

_BLOCK = 8 << 20
_JSON_BLANKS = b" \t\r\n"
_BLANK_TABLE = np.zeros(256, dtype=bool)
_BLANK_TABLE[list(_JSON_BLANKS)] = True


@dataclass(frozen=True)
class IndexDigests:
    """sha256 of the index files; `lines` is None if the records of every file are on lines 1 to n."""

    offsets: str
    lines: str | None


def build_index(
    root: Path, inputs: Sequence[InputFile], layout: OutputLayout, limit: int | None
) -> tuple[list[InputFile], IndexDigests]:
    """Read every input once; write the index, and unpacked copies of compressed inputs, into the work folder.

    Returns:
        the inputs with their record counts, and the digests of the index.

    Raises:
        ConfigError: an input cannot be read or unpacked; partial unpacked copies are removed.
        OSError: the work folder cannot be written.
    """
    try:
        return _build_index(root, inputs, layout, limit)
    except BaseException as error:
        for number in range(len(inputs)):
            layout.unpacked(number).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(layout.work)  # the error of a failed write does not name the file
        raise


def _build_index(
    root: Path, inputs: Sequence[InputFile], layout: OutputLayout, limit: int | None
) -> tuple[list[InputFile], IndexDigests]:
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


def has_planned_content(path: Path, file: InputFile, limit: int | None) -> bool:
    """Return whether an uncompressed input still has the CRC-32 that was indexed.

    With a limit, the index stopped after the block that holds the last record, so the CRC-32 after any block may match.
    """
    crc = 0
    with path.open("rb") as raw:
        for block in _read_blocks(raw):
            crc = isal_zlib.crc32(block, crc)
            if limit is not None and crc == file.crc32:
                return True
    return crc == file.crc32


class _LineScanner:
    """Finds the non-blank lines in a stream of blocks."""

    def __init__(self) -> None:
        self.position = 0  # bytes seen
        self.last_count = 0  # records of the last block
        self._line_start, self._line_number, self._has_content = 0, 1, False

    def feed(self, block: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the byte offset and the line number of each line whose first non-blank byte is in this block."""
        base = self.position
        self.position += len(block)
        if base == 0 and block.startswith(UTF8_BOM):
            block, base = block[3:], 3
            self._line_start = 3
        data = np.frombuffer(block, dtype=np.uint8)
        newlines = np.flatnonzero(data == 10)
        # Segments: the rest of the line that began in an earlier block, then one for each newline.
        starts = np.concatenate(([0], newlines + 1))
        ends = np.concatenate((newlines, [len(block)]))
        filled = starts < ends
        first = data[np.minimum(starts, max(len(block) - 1, 0))] if len(block) else np.zeros(1, dtype=np.uint8)
        unsure = np.flatnonzero(filled & _BLANK_TABLE[first])
        for i in unsure:  # lines that begin with a blank are rare, so this loop is short
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
    """Yield the content of an input in blocks; that of a compressed input is also written to `unpacked`."""
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise ConfigError(f"{path}: {unreadable(error, 'correct or remove it')}") from None
        if path.name.lower().endswith(".gz"):
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
    """Decompress all frames of a zstd stream; unlike the library's own reader, report a truncated stream."""
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
        raise EOFError("it ends inside a zstd frame")
