"""Statistics of a folder of images: formats, modes, sizes, EXIF rotations, and files with identical contents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from preprocess.folder_walk import walk_folder
from preprocess.image_files import LARGEST_FILE, error_message, identified_image
from preprocess.regular_files import open_regular

UPRIGHT = 1


@dataclass
class Audit:
    """What was found in one folder; paths are relative to it.

    Attributes:
        files: number of files; `size` is their total size in bytes.
        formats, modes: number of images of each, by Pillow's names.
        sizes: (width, height) in pixels as stored → number of images.
        rotated: path and EXIF orientation, 2 to 8, of images that are to be rotated for display. Training uses the
            pixels as stored.
        unreadable: path and reason of files without the header of an image.
        contents: sha256 of the file contents → paths of the files with them.
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
        """The paths of files with identical contents, one list per content."""
        return [paths for paths in self.contents.values() if len(paths) > 1]

    def shared_with(self, other: Audit) -> list[tuple[list[str], list[str]]]:
        """For each content in both folders, its paths in this folder and in `other`."""
        return [(paths, other.contents[digest]) for digest, paths in self.contents.items() if digest in other.contents]


def audit(folder: Path) -> Audit:
    """Read every file of a folder once, in path order, and parse image headers; pixels are not decoded.

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
        except Exception as error:  # Pillow's plugins raise any exception on a broken file
            found.unreadable.append((name, error_message(error)))
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
    """The EXIF orientation, 2 to 8; UPRIGHT if it is missing or broken, as image viewers do."""
    from PIL import ExifTags, Image

    assert isinstance(image, Image.Image)
    try:
        # The method of the base class, since that of PNG decodes all pixels.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # a broken EXIF block does not make the image unreadable
        return UPRIGHT
    return value if isinstance(value, int) and 2 <= value <= 8 else UPRIGHT


def _files(folder: Path) -> Iterator[Path]:
    for parent, names in walk_folder(folder, hidden=True):
        yield from (parent / name for name in names)
