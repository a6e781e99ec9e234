"""Data for the loading benchmarks: a dataset of our command, its rows one by one, and checksums of loaded rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from benchmarks.generate import phase_2_records, write_records
from hdf5_writer.config import build_config
from hdf5_writer.run import create_dataset
from preprocess.tokenize.tokenizer import load_tokenizer

QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart"
TEXT_KEYS = ("text_input_ids", "labels", "loss_mask", "key_padding_mask")
LENGTH = 2048
_PHOTO = (640, 480)
_PHOTOS = 48  # number of files; further rows reuse them
# Variants of a dataset that store images in the shards: folder name → extra config keys.
STORED: dict[str, dict[str, str]] = {"encoded": {}, "pixels": {"image_aspect_ratio": "square"}}


def write_dataset(folder: Path, rows: int, *, with_images: bool, packing: str = "none", shards: int = 8) -> Path:
    """Write generated conversations as rows of 2,048 positions to `folder/ours`, and photos to `folder/photos`.

    With images, every row has one, and the variants in `STORED` are written too. Without, half of the rows have an
    image that is not read. With packing, `rows` is the number of samples.
    """
    made = phase_2_records(load_tokenizer(str(QUICKSTART / "tokenizer")), 2 * rows if with_images else rows)
    if with_images:
        names = [file.name for file in draw_photos(folder / "photos", min(rows, _PHOTOS))]
        made = ({**record, "image": names[i % len(names)]} for i, record in enumerate(islice(made, 0, None, 2)))
    write_records(folder / "in" / "records.jsonl", made)
    values: dict[str, dict[str, Any]] = {
        "setup": {
            "input_dir": str(folder / "in"),
            "output_dir": str(folder / "ours"),
            "samples_per_shard": -(-rows // shards),
        },
        "processor": {
            "tokenizer_type": str(QUICKSTART / "tokenizer"),
            "max_sequence_length": LENGTH,
            "packing": packing,
        },
        "dataset": {"check_images": "none", "system_prompt_style": "vicuna_v1"},
    }
    create_dataset(build_config(values, "benchmark", folder), SilentProgress())
    for form, keys in STORED.items() if with_images else ():
        stored = {"image_dir": str(folder / "photos"), "store_images": form, **keys}
        values["dataset"] = {"system_prompt_style": "vicuna_v1", **stored}
        values["setup"]["output_dir"] = str(folder / form)
        create_dataset(build_config(values, "benchmark", folder), SilentProgress())
    return folder


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Make JPEGs of 640 x 480 that take as long to decode as photos: an embedded picture with smooth noise."""
    folder.mkdir(parents=True)
    pictures = sorted((QUICKSTART / "images").rglob("*.png"))
    generator = np.random.default_rng(0)
    files = []
    for number in range(count):
        with Image.open(pictures[number % len(pictures)]) as picture:
            base = picture.convert("RGB").resize(_PHOTO)
        noise = Image.fromarray(generator.integers(0, 256, (120, 160, 3), dtype=np.uint8)).resize(_PHOTO)
        files.append(folder / f"{number:04d}.jpg")
        Image.blend(base, noise, 0.4).save(files[-1], quality=90)
    return files


def shards(folder: Path) -> list[Path]:
    """Return the shards of `write_dataset`, in order."""
    return sorted((folder / "ours").glob("*.h5"))


def photos(folder: Path) -> list[Path]:
    """Return the photo of every row, in row order."""
    paths = []
    for shard in shards(folder):
        with h5py.File(shard) as file:
            paths += [folder / "photos" / name.decode() for name in file["images/path"][:]]
    return paths


def columns_of(shard: Path) -> dict[str, Any]:
    """Read the rows of a shard with h5py, an independent reader.

    Returns:
        `TEXT_KEYS` in their stored dtypes, `has_image`, and, if there are photos, `image`: the bytes of the JPEGs.
    """
    photo_dir = shard.parents[1] / "photos"
    with h5py.File(shard) as file:
        columns = {key: file[key][:] for key in TEXT_KEYS}
        columns["has_image"] = np.diff(file["images/offsets"][:]) > 0
        if photo_dir.is_dir():
            columns["image"] = [(photo_dir / name.decode()).read_bytes() for name in file["images/path"][:]]
    return columns


def rows_of(shard: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of `columns_of` one by one."""
    columns = columns_of(shard)
    columns["has_image"] = columns["has_image"].tolist()
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


class Checksum:
    """Checksum of rows, independent of their order."""

    def __init__(self) -> None:
        self._sum = 0
        self.rows = 0
        self._pixels = 0.0

    def add(self, batch: Mapping[str, Any]) -> None:
        """Add a batch of numpy arrays or tensors, with rows along the first axis.

        Raises:
            ValueError: ids or masks are not int32.
        """
        columns = [np.asarray(batch[key]) for key in TEXT_KEYS]
        if any(column.dtype != np.int32 for column in columns):
            raise ValueError(f"ids and masks are {[column.dtype.name for column in columns]}, expected int32")
        columns.append(np.asarray(batch["has_image"], dtype="<i4").reshape(-1, 1))
        for number, row in enumerate(zip(*columns, strict=True)):
            hashed = hashlib.blake2b(b"".join(map(np.ndarray.tobytes, row)), digest_size=8)
            value = int.from_bytes(hashed.digest(), "little")
            self._sum = (self._sum + value) % 2**64
            if "image_data" in batch:
                # Weighted by the text, so that a photo in the wrong row changes the sum.
                mean = float(np.asarray(batch["image_data"][number], dtype=np.float32).mean())
                self._pixels += mean * (1 + value % 1000)
        self.rows += len(columns[0])

    def to_json(self) -> dict[str, Any]:
        """`checked_rows`, `checksum` of their texts, and `pixels`, which may differ by float16 rounding."""
        return {"checked_rows": self.rows, "checksum": f"{self._sum:016x}", "pixels": self._pixels}


class SampleChecksum:
    """Checksum of the supervised labels of samples, independent of their order and of packing."""

    def __init__(self) -> None:
        self._sum = 0
        self.samples = 0
        self.rows = 0

    def add(self, batch: Mapping[str, Any]) -> None:
        """Add a batch, packed or not. A row that only completes a batch has no loss and is not counted as a sample."""
        labels, counts = (np.asarray(batch[key]) for key in ("labels", "loss_mask"))
        segments = np.asarray(batch["segment_ids"]) if "segment_ids" in batch else np.ones_like(labels)
        for row_labels, row_counts, row_segments in zip(labels, counts == 1, segments, strict=True):
            supervised, owners = row_labels[row_counts], row_segments[row_counts]
            for sample in np.split(supervised, np.flatnonzero(np.diff(owners)) + 1) if len(supervised) else ():
                hashed = hashlib.blake2b(sample.astype("<i4").tobytes(), digest_size=8)
                self._sum = (self._sum + int.from_bytes(hashed.digest(), "little")) % 2**64
                self.samples += 1
        self.rows += len(labels)

    def to_json(self) -> dict[str, Any]:
        """`checked_samples` and their `checksum`."""
        return {"checked_samples": self.samples, "checksum": f"{self._sum:016x}"}


def expected(folder: Path) -> dict[str, Any]:
    """Return the checksum that every loader must reach, without pixels."""
    checksum = Checksum()
    for shard in shards(folder):
        columns = columns_of(shard)
        wide = {key: columns[key].astype(np.int32) for key in TEXT_KEYS}
        checksum.add({**wide, "has_image": columns["has_image"]})
    return checksum.to_json()


class SilentProgress:
    """Progress of a run that prints nothing."""

    def note(self, sentence: str) -> None: ...

    def planned(self, plan: object, done: int, records: int) -> None: ...

    def advance(self, task: object) -> None: ...

    def close(self) -> None: ...
