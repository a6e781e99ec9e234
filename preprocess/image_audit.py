"""What is in a folder of images: formats, modes, sizes, rotations, and which files hold the same image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from preprocess.image_files import LARGEST_FILE, identified_image, what_was_said
from preprocess.regular_files import open_regular

UPRIGHT = 1


@dataclass
class Audit:
    """What was found in one folder; paths are relative to it.

    Attributes:
        files: how many there are, and `size` in bytes, together.
        formats, modes: how many images are of each, in Pillow's names.
        sizes: (width, height) in pixels as stored → number of images.
        rotated: path and EXIF orientation, 2 to 8, of the images that are stored another way than they are to be shown.
            Training takes the pixels as stored.
        unreadable: path and reason of the files whose header is not that of an image.
        contents: sha256 of a file → the paths that hold it.
    """

    files: int = 0
    size: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    rotated: list[tuple[str, int]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    contents: dict[bytes, list[str]] = field(default_factory=dict)

    @property
    def duplicates(self) -> list[list[str]]:
        """The paths of each content that more than one file has."""
        return [paths for paths in self.contents.values() if len(paths) > 1]

    def shared_with(self, other: Audit) -> list[tuple[list[str], list[str]]]:
        """The paths of each content that both folders have, here and there."""
        return [(paths, other.contents[digest]) for digest, paths in self.contents.items() if digest in other.contents]


def audit(folder: Path) -> Audit:
    """Read every file of a folder once, in the order of their paths. Headers only: pixels are not decoded.

    Raises:
        OSError: the folder cannot be listed.
    """
    found = Audit()
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        found.files += 1
        try:
            with open_regular(path) as file:
                data = file.read(LARGEST_FILE + 1)
        except OSError as error:
            found.unreadable.append((name, error.strerror or str(error)))
            continue
        found.size += len(data)
        if len(data) <= LARGEST_FILE:
            found.contents.setdefault(sha256(data).digest(), []).append(name)
        try:
            _look(found, name, data)
        except Exception as error:  # Pillow's plugins raise whatever a broken file leads them to
            found.unreadable.append((name, what_was_said(error)))
    return found


def _look(found: Audit, name: str, data: bytes) -> None:
    with identified_image(BytesIO(data)) as image:
        header = str(image.format), image.mode, image.size
        orientation = _orientation(image)
    found.formats[header[0]] += 1
    found.modes[header[1]] += 1
    found.sizes[header[2]] += 1
    if orientation != UPRIGHT:
        found.rotated.append((name, orientation))


def _orientation(image: object) -> int:
    """The EXIF tag, 2 to 8; UPRIGHT where it is missing or broken, as every viewer has it."""
    from PIL import ExifTags, Image

    assert isinstance(image, Image.Image)
    try:
        # Of the base class: that of PNG decodes all pixels to look behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # what Pillow makes of a broken EXIF block says nothing about the image
        return UPRIGHT
    return value if isinstance(value, int) and 2 <= value <= 8 else UPRIGHT


def _files(folder: Path) -> Iterator[Path]:
    """All files under a folder, links followed, each folder once."""
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            yield Path(parent, name)
