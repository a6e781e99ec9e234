"""Is the image there, inside `image_dir`, and does it decode? And how every stage opens image files."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from preprocess.config import ConfigError, DatasetConfig
from preprocess.rejects import Reason, Rejected, shorten

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

# Names kept in memory over all listed folders; what is not in those is looked up file by file.
_MOST_NAMES = 2_000_000

# What `decode` takes: all that datasets hold. Among the other formats of Pillow is one that runs a program (EPS).
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
LARGEST_FILE = 128 << 20
# As libtiff has it (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER); encoders write about ten.
MOST_SCANS = 100
# A marker of JPEG: not a stuffed zero, a restart marker or fill bytes.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)


class ImageChecker:
    """Checks paths of one image folder. Each sub-folder is listed once, instead of one stat per record.

    Who owns the image folder decides what is in it: links in it are followed, wherever they lead. What a record says
    never leads out of it.
    """

    def __init__(
        self, image_dir: Path | None, mode: Literal["none", "exists", "decode"], most_names: int = _MOST_NAMES
    ) -> None:
        """`most_names` bounds the memory that listings take; 0 looks up file by file, which is best for few paths."""
        self._mode = mode
        self._root = None if image_dir is None else os.path.realpath(image_dir)
        # Name → is a link that was not seen to lead to a file; None where the folder is looked up file by file.
        self._listings: dict[str, dict[str, bool] | None] = {}
        self._names_left = most_names

    def check(self, path: str) -> None:
        """Check one path as a record gives it, relative to the image folder.

        Raises:
            ConfigError: there is no image folder to check in.
            Rejected: IMAGE_OUTSIDE (absolute, `..`, a NUL), IMAGE_MISSING, IMAGE_UNREADABLE (only with `decode`).
        """
        folder, name = self._split(path)
        if self._mode == "none":
            return
        if self._root is None:
            raise ConfigError(
                "the record has an image, but dataset.image_dir is missing; give the folder that image paths are "
                "relative to, or dataset.check_images=none to leave images unchecked"
            )
        if not self._is_there(folder, name):
            raise Rejected(Reason.IMAGE_MISSING, f"no file {shorten(path, 200)} in image_dir")
        if self._mode == "decode":
            decode(os.path.join(self._root, folder, name), path)

    def _split(self, path: str) -> tuple[str, str]:
        """Folder and name, lexically inside the image folder."""
        if "\0" in path:
            raise Rejected(Reason.IMAGE_OUTSIDE, f"{shorten(path, 200)} holds a NUL, which no path can")
        if path.startswith("/"):
            raise Rejected(Reason.IMAGE_OUTSIDE, f"{shorten(path, 200)} is absolute, expected relative to image_dir")
        folder, _, name = path.rpartition("/")
        if name in ("", ".", "..") or ".." in folder.split("/"):
            raise Rejected(Reason.IMAGE_OUTSIDE, f"{shorten(path, 200)} is no path of a file inside image_dir")
        return folder, name

    def _is_there(self, folder: str, name: str) -> bool:
        """Whether it is a regular file, links followed."""
        if folder not in self._listings and self._names_left > 0:
            self._names_left -= 1
            self._listings[folder] = self._list(folder)
        listing = self._listings.get(folder)
        if listing is not None:
            if name not in listing:
                return False
            if not listing[name]:
                return True
        is_file = os.path.isfile(os.path.join(str(self._root), folder, name))
        if listing is not None:
            listing[name] = not is_file
        return is_file

    def _list(self, folder: str) -> dict[str, bool] | None:
        listing: dict[str, bool] = {}
        try:
            with os.scandir(os.path.join(str(self._root), folder)) as entries:
                for entry in entries:
                    is_link = entry.is_symlink()
                    if is_link or entry.is_file():
                        listing[entry.name] = is_link
                        if len(listing) > self._names_left:
                            return None
        except (OSError, ValueError):
            return None
        self._names_left -= len(listing)
        return listing


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file that may be anything, to read its bytes; links are followed.

    A pipe would block for good, and a device does what it likes when it is opened.

    Raises:
        OSError: it is no regular file, is not there or cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is no regular file")
    # Another file may stand there by now: it must not block either.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is no regular file")
    return file


def decode(file: str, shown: str) -> None:
    """Decode an image file; see `decode_rgb`.

    Raises:
        Rejected: IMAGE_UNREADABLE, with what `decode_rgb` said.
    """
    try:
        with open_regular(file) as opened:
            decode_rgb(opened)
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them to
        said = what_was_said(error).replace(file, shown)
        raise Rejected(Reason.IMAGE_UNREADABLE, f"{shorten(shown, 200)} does not decode: {said}") from None


def decode_rgb(file: BinaryIO) -> PillowImage:
    """Decode a whole image as training will, to RGB; of an animation, the first frame. See `opened_image`."""
    with opened_image(file) as image:
        return image.convert("RGB")


@contextlib.contextmanager
def opened_image(file: BinaryIO) -> Iterator[PillowImage]:
    """An image of any mode, to be decoded inside the `with`, within limits that bound time and memory.

    What decides is in the file alone, never a clock, so that every machine rejects the same: docs/config.md has the
    limits, and what was measured.

    Raises:
        ValueError: the file is beyond one of the limits.
        Exception: whatever Pillow's plugins raise.
    """
    with identified_image(file) as image:
        if image.format in ("JPEG", "MPO"):
            place = file.tell()
            file.seek(0)
            _require_few_scans(file.read())
            file.seek(place)
        yield image


@contextlib.contextmanager
def identified_image(file: BinaryIO) -> Iterator[PillowImage]:
    """An image of which no more than the header is read: format and size. See `opened_image` for errors."""
    from PIL import Image

    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size > LARGEST_FILE:
        raise ValueError(f"the file has {size:,} bytes, expected at most {LARGEST_FILE:,}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=_formats()) as image:
            yield image


def what_was_said(error: Exception) -> str:
    """An error of `decode_rgb` in one line."""
    said = " ".join(str(error).split())
    # Pillow puts the address of what it reads from into this message; a reject is the same in every run.
    if "cannot identify" in said:
        said = f"cannot identify the format, expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return f"{type(error).__name__}: {said[:200]}"


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow knows."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _require_few_scans(data: bytes) -> None:
    """Refuse a JPEG that goes over its pixels again and again: 14 bytes are one more pass over all of them."""
    if data.count(b"\xff\xda") <= MOST_SCANS:
        return  # the usual case, without looking at where they stand
    scans, at = 0, 2
    while (marker := _MARKER.search(data, at)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        # Behind the header of a scan come its bits, in which every FF is followed by 00 or a restart marker.
        at = marker.end() + max(int.from_bytes(data[marker.end() : marker.end() + 2], "big"), 2)
    if scans > MOST_SCANS:
        raise ValueError(f"the JPEG has {scans:,} scans, expected at most {MOST_SCANS}")


def require_image_dir(dataset: DatasetConfig) -> None:
    """Refuse an image folder that is not there.

    Raises:
        ConfigError: `dataset.image_dir` is given and is no folder.
    """
    if dataset.image_dir is not None and dataset.check_images != "none" and not dataset.image_dir.is_dir():
        raise ConfigError(
            f"dataset.image_dir {dataset.image_dir}: no such folder; give the folder that image paths are relative to, "
            "or dataset.check_images=none to leave images unchecked"
        )
