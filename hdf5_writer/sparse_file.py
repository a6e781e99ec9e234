"""A sparse in-memory file: ranges that were never written take no memory and read as zeros."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

_PAGE = 1 << 16


class SparseFile(io.RawIOBase):
    """A file object for HDF5, in which a reserved dataset of gigabytes takes no memory until it is written."""

    def __init__(self) -> None:
        super().__init__()
        self._pages: dict[int, bytearray] = {}
        self._at = 0
        self.size = 0

    def readable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, which may be after the end."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """Set the size and discard the content after it."""
        size = self._at if size is None else size
        for number in [number for number in self._pages if (number + 1) * _PAGE > size]:
            kept = max(0, size - number * _PAGE)
            self._pages[number][kept:] = bytes(_PAGE - kept)
        self.size = size
        return size

    def readinto(self, buffer: Any) -> int:
        """Read from the position; ranges that were never written read as zeros."""
        target = memoryview(buffer).cast("B")
        count = max(0, min(len(target), self.size - self._at))
        for done, number, start, stop in _pieces(self._at, count):
            page = self._pages.get(number)
            target[done : done + stop - start] = bytes(stop - start) if page is None else page[start:stop]
        self._at += count
        return count

    def write(self, data: Any) -> int:
        """Write at the position."""
        source = memoryview(data).cast("B")
        for done, number, start, stop in _pieces(self._at, len(source)):
            page = self._pages.setdefault(number, bytearray(_PAGE))
            page[start:stop] = source[done : done + stop - start]
        self._at += len(source)
        self.size = max(self.size, self._at)
        return len(source)

    def with_replaced(self, offset: int, size: int, filling: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the whole content in order, with the `size` bytes at `offset` replaced by `filling`."""
        yield from self._content(0, offset)
        yield from filling
        yield from self._content(offset + size, self.size)

    def _content(self, start: int, stop: int) -> Iterator[bytes]:
        for _, number, first, last in _pieces(start, stop - start):
            page = self._pages.get(number)
            yield bytes(last - first) if page is None else bytes(page[first:last])


def _pieces(at: int, count: int) -> Iterator[tuple[int, int, int, int]]:
    """Split a byte range by pages: yield bytes before the piece, page number, start and end in the page."""
    done = 0
    while done < count:
        number, start = divmod(at + done, _PAGE)
        stop = min(_PAGE, start + count - done)
        yield done, number, start, stop
        done += stop - start
