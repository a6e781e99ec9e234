"""Open and decode untrusted image files; used by checks, pages and loaders."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

# Accepted formats: all that datasets use. Pillow supports others too, one of which runs a program (EPS).
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
LARGEST_FILE = 128 << 20
# The limit of libtiff (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER); encoders write about ten.
MAX_SCANS = 100
# A marker of JPEG: not a stuffed zero, a restart marker or fill bytes.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)


def is_inside(path: str) -> bool:
    """Whether a relative path, taken lexically, stays inside its base folder."""
    parts = path.split("/")
    return not path.startswith("/") and "\0" not in path and ".." not in parts and parts[-1] not in ("", ".")


def looks_like_an_image(start: bytes) -> bool:
    """Whether a file that starts with these bytes may be in one of `FORMATS`, by the signatures in Pillow's plugins."""
    from PIL import Image

    Image.init()
    accepting = (Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN)
    return any(accept is not None and bool(accept(start)) for accept in accepting)


def decode_rgb(file: BinaryIO) -> PillowImage:
    """Decode an image to RGB as training does; of an animation, the first frame. See `opened_image`."""
    with opened_image(file) as image:
        return to_rgb(image)


def to_rgb(image: PillowImage) -> PillowImage:
    """`convert("RGB")`, but without copying an RGB image: the copy takes a tenth of decoding and resizing."""
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


@contextlib.contextmanager
def opened_image(file: BinaryIO) -> Iterator[PillowImage]:
    """Open an image of any mode, to be decoded inside the `with`; limits bound time and memory.

    The limits depend only on the file, never on time, so every machine rejects the same files. See docs/config.md.

    Raises:
        ValueError: the file exceeds a limit.
        Exception: any exception of a Pillow plugin.
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
    """Open an image and read only its header, which has format and size. See `opened_image` for errors."""
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


def error_message(error: Exception) -> str:
    """The message of an error from `decode_rgb` in one line, the same in every run."""
    message = " ".join(str(error).split())
    # Pillow's message contains the memory address of the file object, which differs between runs.
    if "cannot identify" in message:
        message = f"cannot identify the format, expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return f"{type(error).__name__}: {message[:200]}"


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    """The formats of `FORMATS` that the installed Pillow supports."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _require_few_scans(data: bytes) -> None:
    """Refuse a JPEG with too many scans: each scan of 14 bytes costs one more pass over all pixels."""
    if data.count(b"\xff\xda") <= MAX_SCANS:
        return  # the usual case: no need to parse the markers
    scans, at = 0, 2
    while (marker := _MARKER.search(data, at)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        # The header of a scan is followed by its data, in which every FF is followed by 00 or a restart marker.
        at = marker.end() + max(int.from_bytes(data[marker.end() : marker.end() + 2], "big"), 2)
    if scans > MAX_SCANS:
        raise ValueError(f"the JPEG has {scans:,} scans, expected at most {MAX_SCANS}")
