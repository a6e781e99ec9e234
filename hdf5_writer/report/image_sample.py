"""Images of a dataset in bounded memory: how many, the most used, and what a sample of the files looks like."""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from preprocess.image_files import identified_image
from preprocess.images import ImageChecker
from preprocess.regular_files import open_regular
from preprocess.rejects import Reason, Rejected

_MOST_PATHS = 50_000
_SAMPLE = 200


class ImageTally:
    """Counts paths, exactly up to a number of distinct ones, then by two well-known approximations.

    Distinct paths are estimated from those whose CRC-32 a growing power of two divides; the most used ones are
    counted by dropping the smaller half whenever the table is full.
    """

    def __init__(self, most_paths: int = _MOST_PATHS) -> None:
        self._most = most_paths
        self._sampled: Counter[bytes] = Counter()
        self._frequent: Counter[bytes] = Counter()
        self.every = 1
        self.frequent_is_exact = True

    def add(self, paths: Iterable[bytes]) -> None:
        """Count the paths of some rows; empty ones (text-only rows) do not count."""
        found = Counter(paths)
        found.pop(b"", None)
        for path, rows in found.items():
            if self.every == 1 or zlib.crc32(path) % self.every == 0:
                self._sampled[path] += rows
        while len(self._sampled) > self._most:
            self.every *= 2
            self._sampled = Counter(
                {path: rows for path, rows in self._sampled.items() if zlib.crc32(path) % self.every == 0}
            )
        self._frequent.update(found)
        if len(self._frequent) > 2 * self._most:
            least = sorted(self._frequent.values())[self._most]
            self._frequent = Counter({path: rows for path, rows in self._frequent.items() if rows > least})
            self.frequent_is_exact = False

    @property
    def distinct(self) -> int:
        """Distinct paths; an estimate where `every` is not 1."""
        return len(self._sampled) * self.every

    def most_used(self, number: int) -> list[tuple[str, int]]:
        """(path, rows) of the paths that stand in more than one row; rows are at least so many where not exact."""
        return [(path.decode(), rows) for path, rows in self._ranked(number) if rows > 1]

    def sample(self, number: int = _SAMPLE) -> list[str]:
        """Some distinct paths: the same ones for the same paths, whatever their order."""
        return [path.decode() for _, path in heapq.nsmallest(number, ((zlib.crc32(p), p) for p in self._sampled))]

    def _ranked(self, number: int) -> list[tuple[bytes, int]]:
        return heapq.nsmallest(number, self._frequent.items(), key=lambda item: (-item[1], item[0]))


@dataclass
class ImageSample:
    """What the headers of some image files say.

    Attributes:
        sizes: (width, height) in pixels, as stored, of those that could be read.
        rotated: how many of these have an EXIF orientation that asks a viewer to turn or mirror them.
        missing, unreadable: paths of those that are not there, or whose header says nothing.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    rotated: int = 0

    @property
    def looked_at(self) -> int:
        """Files."""
        return len(self.sizes) + len(self.missing) + len(self.unreadable)

    def smaller_than(self, side: int) -> int:
        """Files of which one side has fewer pixels."""
        return sum(min(size) < side for size in self.sizes)


def look_at_images(image_dir: Path | None, paths: Iterable[str]) -> ImageSample:
    """Read the headers of some images, never outside the image folder; of none where no folder is known."""
    from PIL import ExifTags

    sample = ImageSample()
    if image_dir is None:
        return sample
    checker = ImageChecker(image_dir, "exists", most_names=0)
    for path in paths:
        try:
            checker.check(path)
            with open_regular(image_dir / path) as file, identified_image(file) as image:
                sample.rotated += image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
                sample.sizes.append(image.size)
        except Rejected as reject:
            (sample.missing if reject.reason is Reason.IMAGE_MISSING else sample.unreadable).append(path)
        except Exception:  # Pillow's plugins raise whatever a broken file leads them to
            sample.unreadable.append(path)
    return sample
