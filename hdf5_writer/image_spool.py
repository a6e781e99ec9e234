"""Collect the images of a shard while it is built: each file is read and decoded once and kept on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from preprocess.config import DatasetConfig
from preprocess.image_files import LARGEST_FILE, error_message, opened_image, to_rgb
from preprocess.images import ImageChecker
from preprocess.model_pixels import ModelPixels
from preprocess.regular_files import open_regular
from preprocess.rejects import Reason, Rejected, shorten

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

_AT_ONCE = 8 << 20
# Maps the opened image and the bytes of its file to the bytes that are stored.
Stored = Callable[["PillowImage", bytes], bytes]


class _Content(NamedTuple):
    """A distinct file content: sha256 of the file; offset, size and CRC-32 of its stored form in the spool."""

    sha256: bytes
    begin: int
    size: int
    crc32: int


class ImageFact(NamedTuple):
    """Path, size and modification time of a file, by which a later run detects a change."""

    path: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Contents:
    """The n distinct contents of some images, in the order of first use; see `hdf5_writer.schema` for the columns.

    Attributes:
        of_image: (images,) int32, number of the content of each image.
        sha256: (n, 32) uint8.
        begin: (n + 1,) int64.
        crc32: (n,) uint32.
        facts_digest: sha256 over the `ImageFact` of each path; see `facts_digest`.
        places: (offset, size) of each content in the spool, in bytes.
    """

    of_image: npt.NDArray[np.int32]
    sha256: npt.NDArray[np.uint8]
    begin: npt.NDArray[np.int64]
    crc32: npt.NDArray[np.uint32]
    facts_digest: str
    places: list[tuple[int, int]]

    @property
    def stored_bytes(self) -> int:
        """Total size of the stored contents in bytes."""
        return int(self.begin[-1])

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the columns by their names in a shard."""
        return {
            "images/content": self.of_image,
            "contents/sha256": self.sha256,
            "contents/begin": self.begin,
            "contents/crc32": self.crc32,
        }


def unread_contents(images: int) -> Contents:
    """Return the `Contents` of images whose files are not read."""
    return Contents(
        of_image=np.full(images, -1, dtype=np.int32),
        sha256=np.zeros((0, 32), dtype=np.uint8),
        begin=np.zeros(1, dtype=np.int64),
        crc32=np.zeros(0, dtype=np.uint32),
        facts_digest="",
        places=[],
    )


class ImageSpool:
    """Reads the image files of one task, each once, and returns their contents in any order."""

    def __init__(self, checker: ImageChecker, folder: Path, stored: Stored | None) -> None:
        """Create an empty spool.

        Args:
            checker: finds the files.
            folder: folder of the spool file; the file is unnamed, so a killed run leaves nothing behind.
            stored: converts an image to its stored form; None stores only the hash of its file.
        """
        self._checker = checker
        self._stored = stored
        self._folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 # closed with the spool
        self._end = 0
        self._paths: dict[str, tuple[_Content, ImageFact] | Rejected] = {}
        self._contents: dict[bytes, _Content] = {}

    def close(self) -> None:
        """Delete the spool file."""
        self._file.close()

    def check(self, path: str) -> str:
        """Read and decode an image unless this was done before; a replacement for `ImageChecker.check`.

        Raises:
            ConfigError: there is no image folder.
            Rejected: see `ImageChecker.check`.
            OSError: the spool cannot be written.
        """
        inside, file = self._checker.find(path)
        if inside not in self._paths:
            try:
                self._paths[inside] = self._read(inside, file)
            except Rejected as rejected:
                self._paths[inside] = rejected
        found = self._paths[inside]
        if isinstance(found, Rejected):
            raise Rejected(found.reason, found.detail)
        return inside

    def contents(self, paths: Sequence[str]) -> Contents:
        """Return the contents of images that passed `check`; `paths` has one path per image."""
        numbers: dict[bytes, int] = {}
        used: list[_Content] = []
        of_image = []
        facts = set()
        for path in paths:
            found = self._paths[path]
            assert not isinstance(found, Rejected), path
            content, fact = found
            if content.sha256 not in numbers:
                numbers[content.sha256] = len(used)
                used.append(content)
            of_image.append(numbers[content.sha256])
            facts.add(fact)
        hashes = np.frombuffer(b"".join(content.sha256 for content in used), dtype=np.uint8).reshape(-1, 32)
        return Contents(
            of_image=np.array(of_image, dtype=np.int32),
            sha256=hashes,
            begin=np.cumsum([0, *(content.size for content in used)], dtype=np.int64),
            crc32=np.array([content.crc32 for content in used], dtype=np.uint32),
            facts_digest=facts_digest(facts),
            places=[(content.begin, content.size) for content in used],
        )

    def payload(self, contents: Contents) -> Iterator[bytes]:
        """Yield the stored bytes of the contents in order, in blocks of some megabytes."""
        for begin, size in contents.places:
            for start in range(begin, begin + size, _AT_ONCE):
                yield os.pread(self._file.fileno(), min(_AT_ONCE, begin + size - start), start)

    def _read(self, path: str, name: str) -> tuple[_Content, ImageFact]:
        try:
            with open_regular(name) as file:
                status = os.fstat(file.fileno())
                data = file.read(LARGEST_FILE + 1)
            fact = ImageFact(path, status.st_size, status.st_mtime_ns)
            digest = hashlib.sha256(data).digest()
            if digest in self._contents:
                return self._contents[digest], fact
            with opened_image(BytesIO(data)) as image:
                if self._stored is None:
                    to_rgb(image)
                kept = b"" if self._stored is None else self._stored(image, data)
        except Exception as error:  # Pillow's plugins raise any exception on a broken file
            message = error_message(error).replace(name, path)
            raise Rejected(Reason.IMAGE_UNREADABLE, f"{shorten(path, 200)} cannot be decoded: {message}") from None
        content = _Content(digest, self._end, len(kept), isal_zlib.crc32(kept))
        self._write(kept)
        self._contents[digest] = content
        return content, fact

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._file.fileno(), view, self._end)
                view, self._end = view[written:], self._end + written
        except OSError as error:
            error.filename = str(self._folder)
            raise


def stored_form(dataset: DatasetConfig) -> Stored | None:
    """Return the function that converts an image as `dataset.store_images` asks; None to store no image."""
    if dataset.store_images == "encoded":
        return _whole_file
    if dataset.image_aspect_ratio is not None:
        pixels = ModelPixels(dataset.image_size, dataset.image_aspect_ratio)
        return lambda image, data: pixels(image).tobytes()
    return None


def _whole_file(image: PillowImage, data: bytes) -> bytes:
    to_rgb(image)  # an image that does not decode completely is rejected
    return data


def facts_digest(facts: set[ImageFact]) -> str:
    """Return the sha256 over paths, sizes and modification times; independent of their order."""
    lines = (f"{fact.path}\0{fact.bytes}\0{fact.mtime_ns}\n" for fact in sorted(facts))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
