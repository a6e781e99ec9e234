"""Upper bound of image loading: only decode, pad, resize, crop and normalise, with Pillow and numpy."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from preprocess.square_images import pad_to_square

SIZE = 336
# Of CLIP, as in `loaders.image_transform`; not imported from there, so that this stays independent of our loader.
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def pillow_pixels(file: Path | IO[bytes], aspect_ratio: str) -> Any:
    """Straightforward implementation: (3, 336, 336) float16."""
    with Image.open(file) as opened:
        pixels = squared(opened, aspect_ratio).astype(np.float32)
    pixels = (pixels / 255 - _MEAN) / _STD
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float16)


def normalised(pixels: Any) -> Any:
    """Normalise stored pixels, (3, 336, 336) uint8, to float16."""
    values = (pixels.astype(np.float32) / 255 - _MEAN[:, None, None]) / _STD[:, None, None]
    return values.astype(np.float16)


def squared(opened: Image.Image, aspect_ratio: str) -> Any:
    """Decode, pad, resize and crop to (336, 336, 3) uint8."""
    image = opened.convert("RGB")
    if aspect_ratio == "pad":
        image = pad_to_square(image)
    short = min(image.size)
    width, height = (int(SIZE * edge / short) for edge in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))


class PillowEpoch:
    """Decode all files once, split over processes; nothing is sent back, so only Pillow is measured."""

    def __init__(self, files: list[Path], aspect_ratio: str, processes: int) -> None:
        self._parts = [files[number::processes] for number in range(processes)]
        self._aspect_ratio = aspect_ratio
        self._pool = ProcessPoolExecutor(processes) if processes > 1 else None

    def __call__(self) -> None:
        """Run the epoch."""
        run = map if self._pool is None else self._pool.map
        for _ in run(_decode_all, self._parts, [self._aspect_ratio] * len(self._parts)):
            pass


def _decode_all(files: list[Path], aspect_ratio: str) -> None:
    for file in files:
        pillow_pixels(file, aspect_ratio)
