"""Image statistics in bounded memory: number of distinct images, most used images, and sizes of a sample of files."""

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

_MAX_PATHS = 50_000
_SAMPLE = 200


class ImageTally:
    """Counts image paths, exactly up to a number of distinct paths and approximately beyond it.

    The number of distinct paths is estimated from the paths whose CRC-32 is divisible by a growing power of two. For
    the most used paths, the less frequent half of the table is dropped whenever it is full.
    """

    def __init__(self, most_paths: int = _MAX_PATHS) -> None:
        self._most = most_paths
        self._sampled: Counter[bytes] = Counter()
        self._frequent: Counter[bytes] = Counter()
        self.every = 1
        self.frequent_is_exact = True

    def add(self, paths: Iterable[bytes]) -> None:
        """Count paths; empty ones are ignored."""
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
        """Number of distinct paths; an estimate unless `every` is 1."""
        return len(self._sampled) * self.every

    def most_used(self, number: int) -> list[tuple[str, int]]:
        """Return (path, uses) of the paths used more than once; lower bounds unless `frequent_is_exact`."""
        return [(path.decode(), rows) for path, rows in self._ranked(number) if rows > 1]

    def sample(self, number: int = _SAMPLE) -> list[str]:
        """Return some distinct paths; the choice does not depend on the order of `add`."""
        return [path.decode() for _, path in heapq.nsmallest(number, ((zlib.crc32(p), p) for p in self._sampled))]

    def _ranked(self, number: int) -> list[tuple[bytes, int]]:
        return heapq.nsmallest(number, self._frequent.items(), key=lambda item: (-item[1], item[0]))


@dataclass
class ImageSample:
    """Facts from the headers of some image files.

    Attributes:
        sizes: (width, height) in pixels, as stored, of the readable files.
        rotated: number of files with an EXIF orientation that rotates or mirrors them.
        missing, unreadable: paths of missing files, and of files without a readable header.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    rotated: int = 0

    @property
    def inspected(self) -> int:
        """Number of files that were examined."""
        return len(self.sizes) + len(self.missing) + len(self.unreadable)

    def smaller_than(self, side: int) -> int:
        """Return the number of files with a side shorter than `side` pixels."""
        return sum(min(size) < side for size in self.sizes)


def inspect_images(image_dir: Path | None, paths: Iterable[str]) -> ImageSample:
    """Read the headers of some images, only inside the image folder; without a folder, return an empty sample."""
    from PIL import ExifTags

    sample = ImageSample()
    if image_dir is None:
        return sample
    checker = ImageChecker(image_dir, "exists", max_names=0)
    for path in paths:
        try:
            checker.check(path)
            with open_regular(image_dir / path) as file, identified_image(file) as image:
                sample.rotated += image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
                sample.sizes.append(image.size)
        except Rejected as reject:
            (sample.missing if reject.reason is Reason.IMAGE_MISSING else sample.unreadable).append(path)
        except Exception:  # Pillow's plugins raise any exception on a broken file
            sample.unreadable.append(path)
    return sample
