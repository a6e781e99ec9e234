"""Stream the elements of a JSON array from a file, both parsed and as their original bytes.

Memory is a few blocks plus the largest element, whatever the size of the file; nothing is memory-mapped.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

import orjson

from preprocess.converters.core.errors import InputError
from preprocess.converters.core.json_fault import find_fault
from preprocess.converters.core.json_scan import element_ends
from preprocess.converters.core.reasons import SourceReason
from preprocess.rejects import Rejected

# Bytes read at a time: a block and its parsed elements fit into the cache of a core.
BLOCK = 1 << 17
# Above this size, an incomplete element is checked for a fault before more is read, since a missing quote must not load
# the rest of a file into memory.
SUSPICIOUS = 1 << 24
# Splitting by guessing is given up after this number of failures, as for records that start with different keys.
WRONG_GUESSES = 3
_BLANKS = b" \t\r\n"
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BETWEEN_OBJECTS = re.compile(rb'\}([ \t\r\n]*,[ \t\r\n]*)(\{[ \t\r\n]*"[^"\\]*")')
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# What to do about an error.
_DAMAGED = "correct the file, or download it again"
_WRONG_FILE = "check that this is the right file"


@dataclass(frozen=True)
class Batch:
    """Adjacent elements: `raw` without surrounding whitespace, and the parsed `values`, if they are kept.

    The value of an element with a lone surrogate, which UTF-8 cannot represent, is a `Rejected`.
    """

    first: int
    raw: list[bytes]
    values: list[Any]


def read_array(path: Path, *, key: str | None = None, bare: bool = True, keep_values: bool = True) -> Iterator[Batch]:
    """Stream the elements of the array in a file.

    Args:
        path: a JSON file, UTF-8; a byte order mark at its start is skipped.
        key: look for the array under this key of a top-level object.
        bare: whether the array may be the top-level value.
        keep_values: if false, elements are parsed for validation only, which is 1.5 times as fast.

    Raises:
        InputError: the file is not in this format; the message names the byte.
    """
    with open(path, "rb", buffering=0) as file:
        reader = _Reader(file, path, keep_values)
        reader.skip_byte_order_mark()
        first = reader.peek()
        if first == b"[" and bare:
            yield from reader.elements(b"]")
            reader.expect_end()
        elif first == b"{" and key is not None:
            yield from reader.member(key)
        else:
            expected = " or ".join(["an array '['"] * bare + [f"an object with {key!r}"] * (key is not None))
            reader.fail(0, f"found {_shown(first)}, expected {expected}", _WRONG_FILE)


class _Reader:
    """A window on the file; `_text` always begins at the next unread byte, which is byte `_start` of the file."""

    def __init__(self, file: FileIO, path: Path, keep_values: bool) -> None:
        self._file = file
        self._path = path
        self._most_values = None if keep_values else 0
        self._text = b""
        self._start = 0
        # The text between two records and the beginning of the next, once seen.
        self._separator: tuple[bytes, bytes] | None = None
        self._wrong_guesses = 0

    def fail(self, byte: int, message: str, advice: str = _DAMAGED) -> NoReturn:
        raise InputError(f"{self._path}: byte {self._start + byte}: {message}; {advice}")

    def skip_byte_order_mark(self) -> None:
        self._more()
        if self._text[:2] in _UTF16:
            self.fail(0, "the file is UTF-16, expected UTF-8", "convert it with iconv -f UTF-16 -t UTF-8")
        if self._text.startswith(b"\xef\xbb\xbf"):
            self._drop(3)

    def peek(self) -> bytes:
        """The next byte that is not whitespace; empty at the end of the file."""
        while True:
            stripped = self._text.lstrip(_BLANKS)
            self._drop(len(self._text) - len(stripped))
            if self._text or not self._more():
                return self._text[:1]

    def expect_end(self) -> None:
        if found := self.peek():
            self.fail(0, f"found {_shown(found)} after the end of the array, expected the end of the file")

    def member(self, key: str) -> Iterator[Batch]:
        """The elements of the array under `key` of the object that begins here; the rest of the file is not read."""
        seen: list[str] = []
        self._drop(1)
        while (first := self.peek()) == b'"':
            seen.append(orjson.loads(self._take_string()))
            if self.peek() != b":":
                self.fail(0, f"found {_shown(self.peek())}, expected ':'")
            self._drop(1)
            value = self.peek()
            if seen[-1] == key:
                if value != b"[":
                    self.fail(0, f"found {_shown(value)} as {key!r}, expected an array", _WRONG_FILE)
                yield from self.elements(b"]")
                return
            self._skip_value(value)
            if self.peek() == b",":
                self._drop(1)
        names = ", ".join(map(repr, seen[:8])) or "none"
        self.fail(0, f"found {_shown(first)} and no key {key!r} among the keys {names}", _WRONG_FILE)

    def elements(self, closing: bytes) -> Iterator[Batch]:
        """The elements of the container that begins here; its closing bracket is read too."""
        self._drop(1)
        if self.peek() == closing:
            self._drop(1)
            return
        first = 0
        while True:
            if len(self._text) < BLOCK:
                self._more()
            batch, ended = self._guess(first), False
            if batch is None:
                batch, ended = self._scan(first, closing)
            first += len(batch.raw)
            yield batch
            if ended:
                return

    def _guess(self, first: int) -> Batch | None:
        """Split at repetitions of the text between the first two records.

        The result is still exact: a wrong split gives a piece that does not parse as one JSON value, and then the guess
        is discarded. Three times faster than counting brackets.
        """
        if self._separator is None or self._wrong_guesses >= WRONG_GUESSES:
            return None
        between, head = self._separator
        first_piece, *pieces = self._text.split(b"}" + between + head)
        if not pieces:
            return None
        begun = pieces.pop()
        raw = [first_piece + b"}", *[head + piece + b"}" for piece in pieces]]
        try:
            values = deque(map(orjson.loads, raw), self._most_values)
        except orjson.JSONDecodeError:
            self._wrong_guesses += 1
            return None
        self._start += len(self._text) - len(head) - len(begun)
        self._text = head + begun
        return Batch(first, raw, list(values))

    def _scan(self, first: int, closing: bytes) -> tuple[Batch, bool]:
        """Split by counting quotes and brackets; read until at least one element is complete."""
        commas, end = element_ends(self._text)
        while not commas and end < 0:
            if len(self._text) >= SUSPICIOUS:
                # The end of the block may split a literal or an escape.
                self._check_unfinished(len(self._text) - 16)
            if not self._more():
                self._check_unfinished(len(self._text.rstrip(_BLANKS)))
                self.fail(len(self._text), f"the file ends inside element {first}, which begins at byte {self._start}")
            commas, end = element_ends(self._text)
        ends = commas if end < 0 else [*commas, end]
        starts = [0, *[comma + 1 for comma in commas]]
        pieces = [self._text[a:b] for a, b in zip(starts, ends, strict=False)]
        values = deque(map(self._parse, pieces, starts), self._most_values)
        if end >= 0 and self._text[end : end + 1] != closing:
            self.fail(end, f"found {_shown(self._text[end : end + 1])}, expected ',' or {_shown(closing)}")
        if commas and (match := _BETWEEN_OBJECTS.match(self._text, self._text.rfind(b"}", 0, commas[0]))):
            self._separator = match[1], match[2]
        self._drop(ends[-1] + 1)
        return Batch(first, [piece.strip(_BLANKS) for piece in pieces], list(values)), end >= 0

    def _parse(self, piece: bytes, start: int) -> Any:
        try:
            return orjson.loads(piece)
        except orjson.JSONDecodeError as error:
            if not piece.strip(_BLANKS):
                after = start + len(piece)
                self.fail(after, f"found {_shown(self._text[after : after + 1])}, expected a value after the comma")
            fault = find_fault(piece)
            if fault is None:
                return Rejected(SourceReason.LONE_SURROGATE, f"{error.msg}, which UTF-8 cannot represent")
            self.fail(start + fault.byte, fault.message)

    def _check_unfinished(self, before: int) -> None:
        """Fail if the part of an element before that byte is invalid, and not just incomplete."""
        fault = find_fault(self._text)
        if fault is not None and not fault.is_open_string and fault.byte < before:
            self.fail(fault.byte, fault.message)

    def _skip_value(self, first: bytes) -> None:
        if first == b'"':
            self._take_string()
        elif first in (b"[", b"{"):
            self._skip_container()
        else:
            while not (match := re.match(rb"[^,\]}]*(?=[,\]}])", self._text)) and self._more():
                pass
            self._drop(match.end() if match else len(self._text))

    def _skip_container(self) -> None:
        self._drop(1)
        while True:
            commas, end = element_ends(self._text)
            if end >= 0:
                return self._drop(end + 1)
            if commas:
                self._drop(commas[-1] + 1)
            if not self._more():
                self.fail(len(self._text), "the file ends inside a value that is not closed")

    def _take_string(self) -> bytes:
        while not (match := _STRING.match(self._text)):
            if not self._more():
                self.fail(len(self._text), "the file ends inside a string")
        self._drop(match.end())
        return match[0]

    def _more(self) -> bool:
        # Double the buffer, so that an element of any size is scanned at most twice.
        read = self._file.read(max(BLOCK, len(self._text)))
        self._text += read or b""
        return bool(read)

    def _drop(self, count: int) -> None:
        self._text = self._text[count:]
        self._start += count


def _shown(byte: bytes) -> str:
    if not byte:
        return "the end of the file"
    return repr(byte.decode()) if byte.isascii() and byte.decode().isprintable() else f"byte 0x{byte[0]:02x}"
