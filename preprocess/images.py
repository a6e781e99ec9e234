"""Is the image there, inside `image_dir`, and does it decode?"""

from __future__ import annotations

import os
import re
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from preprocess.config import ConfigError, DatasetConfig
from preprocess.rejects import Reason, Rejected, shorten

if TYPE_CHECKING:
    from PIL.Image import Image as RgbImage

# Names kept in memory over all listed folders; past it the listings made first are forgotten.
_MOST_NAMES = 2_000_000
_OUTSIDE: dict[str, bool] = {}

# What `decode` takes: all that datasets hold. Among the other formats of Pillow is one that runs a program (EPS).
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
LARGEST_FILE = 128 << 20
# As libtiff has it (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER); encoders write about ten.
MOST_SCANS = 100
# A marker of JPEG: not a stuffed zero, a restart marker or fill bytes.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)


class ImageChecker:
    """Checks paths of one image folder. Each sub-folder is listed once, instead of one stat per record."""

    def __init__(self, image_dir: Path | None, mode: Literal["none", "exists", "decode"]) -> None:
        self._mode = mode
        self._root = None if image_dir is None else os.path.realpath(image_dir)
        self._listings: dict[str, dict[str, bool] | None] = {}
        self._names = 0

    def check(self, path: str) -> None:
        """Check one path as a record gives it, relative to the image folder.

        Raises:
            ConfigError: there is no image folder to check in.
            Rejected: IMAGE_OUTSIDE (absolute, `..`, a NUL, a link that leaves the folder), IMAGE_MISSING,
                IMAGE_UNREADABLE (only with `decode`).
        """
        folder, name = self._split(path)
        if self._mode == "none":
            return
        if self._root is None:
            raise ConfigError(
                "the record has an image, but dataset.image_dir is missing; give the folder that image paths are "
                "relative to, or dataset.check_images=none to leave images unchecked"
            )
        listing = self._listings[folder] if folder in self._listings else self._list(folder)
        if listing is _OUTSIDE:
            raise Rejected(
                Reason.IMAGE_OUTSIDE,
                f"the folder of {shorten(path, 200)} is a link that leaves image_dir; "
                "mount or copy the real folder there, or give image_dir a folder above both",
            )
        if listing is None or name not in listing:
            raise Rejected(Reason.IMAGE_MISSING, f"no file {shorten(path, 200)} in image_dir")
        if listing[name]:
            self._check_link(folder, name, path)
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

    def _list(self, folder: str) -> dict[str, bool] | None:
        """Name → is a link, for the files of one folder; None where it is not there, _OUTSIDE where it is outside."""
        root = str(self._root)
        listing: dict[str, bool] | None = None
        full = os.path.join(root, folder)
        try:
            if not _is_inside(os.path.realpath(full), root):
                listing = _OUTSIDE
            else:
                with os.scandir(full) as entries:
                    # Nothing else: opening a pipe or a device would hang or worse.
                    listing = {
                        e.name: e.is_symlink() for e in entries if e.is_symlink() or e.is_file(follow_symlinks=False)
                    }
        except (OSError, ValueError):
            listing = None
        self._names += len(listing or ())
        if self._names > _MOST_NAMES:
            self._listings.clear()
            self._names = len(listing or ())
        self._listings[folder] = listing
        return listing

    def _check_link(self, folder: str, name: str, path: str) -> None:
        root = str(self._root)
        target = os.path.realpath(os.path.join(root, folder, name))
        if not _is_inside(target, root):
            raise Rejected(Reason.IMAGE_OUTSIDE, f"{shorten(path, 200)} is a link that leaves image_dir")
        if not os.path.isfile(target):
            raise Rejected(Reason.IMAGE_MISSING, f"{shorten(path, 200)} is a link to nothing")


def decode(file: str, shown: str) -> None:
    """Decode an image file; see `decode_rgb`.

    Raises:
        Rejected: IMAGE_UNREADABLE, with what `decode_rgb` said.
    """
    try:
        with open(file, "rb") as opened:
            decode_rgb(opened)
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them to
        said = what_was_said(error).replace(file, shown)
        raise Rejected(Reason.IMAGE_UNREADABLE, f"{shorten(shown, 200)} does not decode: {said}") from None


def decode_rgb(file: BinaryIO) -> RgbImage:
    """Decode a whole image as training will, to RGB; of an animation, the first frame.

    What decides is in the file alone, never a clock, so that every machine rejects the same. The limits bound time and
    memory all the same: docs/config.md has what was measured.

    Raises:
        ValueError: the file is beyond one of the limits.
        Exception: whatever Pillow's plugins raise.
    """
    from PIL import Image

    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size > LARGEST_FILE:
        raise ValueError(f"the file has {size:,} bytes, expected at most {LARGEST_FILE:,}")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning)
        with Image.open(file, formats=_formats()) as image:
            if image.format in ("JPEG", "MPO"):
                place = file.tell()
                file.seek(0)
                _require_few_scans(file.read())
                file.seek(place)
            rgb: RgbImage = image.convert("RGB")
            return rgb


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


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


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
