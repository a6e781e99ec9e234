"""Opening and decoding image files that may be anything: the same for checks, pages and loaders."""

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

# What `decode` takes: all that datasets hold. Among the other formats of Pillow is one that runs a program (EPS).
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
LARGEST_FILE = 128 << 20
# As libtiff has it (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER); encoders write about ten.
MOST_SCANS = 100
# A marker of JPEG: not a stuffed zero, a restart marker or fill bytes.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)


def is_inside(path: str) -> bool:
    """Whether a relative path of a file stays, as it is written, inside the folder it starts from."""
    parts = path.split("/")
    return not path.startswith("/") and "\0" not in path and ".." not in parts and parts[-1] not in ("", ".")


def looks_like_an_image(start: bytes) -> bool:
    """Whether a file that begins with these bytes may be of one of `FORMATS`, by what Pillow's plugins look at."""
    from PIL import Image

    Image.init()
    accepting = (Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN)
    return any(accept is not None and bool(accept(start)) for accept in accepting)


def decode_rgb(file: BinaryIO) -> PillowImage:
    """Decode a whole image as training will, to RGB; of an animation, the first frame. See `opened_image`."""
    with opened_image(file) as image:
        return to_rgb(image)


def to_rgb(image: PillowImage) -> PillowImage:
    """As `convert("RGB")`, which copies an image that is RGB already: a tenth of the time of decoding and resizing."""
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


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
