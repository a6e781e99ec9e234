"""Write small datasets with the embedded tokenizer and images, and read them through h5py."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from conftest import QUICKSTART, create, turn_pair, write_jsonl

from hdf5_writer.config import build_config
from hdf5_writer.layout import OutputLayout

IMAGES = QUICKSTART / "images"
PICTURES = sorted(str(path.relative_to(IMAGES)) for path in IMAGES.rglob("*.png"))


@dataclass(frozen=True)
class Written:
    """A dataset on disk with one sample per row, and its arrays read through h5py: one entry per row, over all shards.

    `image_paths` are empty for text only; `modality_lengths` are the attended positions, negative for text only.
    """

    root: Path
    arrays: dict[str, Any]

    @property
    def rows(self) -> int:
        return len(self.arrays["labels"])


def records_of(count: int, salt: str) -> list[dict[str, Any]]:
    """Records of many lengths, five of seven with an image; no two rows are alike."""
    records = []
    for number in range(count):
        answer = f"{salt} answer {number} " + "word " * (number * 37 % 60)
        if number % 7 < 5:
            question = "<image>\nWhat is this?"
            records.append({"image": PICTURES[number % len(PICTURES)], "conversations": turn_pair(question, answer)})
        else:
            records.append({"conversations": turn_pair(f"Say {number}.", answer)})
    return records


def write_dataset(folder: Path, **options: Any) -> Written:
    """Write a dataset with one sample per row (see `write_folder`) and read it."""
    return read_written(write_folder(folder, **options))


def write_folder(
    folder: Path, *, records: int | list[Any], samples_per_shard: int, salt: str = "first", **changes: Any
) -> Path:
    """Run the main job in this process and return its output folder. `changes`: `section__key=value`."""
    made = records_of(records, salt) if isinstance(records, int) else records
    write_jsonl(folder / "in" / f"{salt}.jsonl", made)
    values: dict[str, dict[str, Any]] = {
        "setup": {
            "input_dir": str(folder / "in"),
            "output_dir": str(folder / "out"),
            "processes": 1,
            "samples_per_shard": samples_per_shard,
            "shuffle": False,
        },
        "processor": {"tokenizer_type": str(QUICKSTART / "tokenizer"), "max_sequence_length": 256},
        "dataset": {
            "image_dir": str(IMAGES),
            "system_prompt_style": "vicuna_v1",
            "image_size": 112,
            "patch_size": 14,
        },
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        values[section][key] = value
    create(build_config(values, "test", folder))
    return folder / "out"


@functools.cache
def first() -> Written:
    """Read-only dataset of 300 rows, two in seven text only, in shards of 70 rows (blocks of 64 and 6)."""
    return write_dataset(_folder("first"), records=300, samples_per_shard=70)


@functools.cache
def second() -> Written:
    """100 other rows in one shard."""
    return write_dataset(_folder("second"), records=100, samples_per_shard=1000, salt="second")


_FOLDERS = tempfile.TemporaryDirectory(prefix="llava-hdf5-loaders-")


def _folder(name: str) -> Path:
    return Path(_FOLDERS.name) / name


def read_written(root: Path) -> Written:
    """Read all rows through h5py only."""
    columns: dict[str, list[Any]] = {}
    for path in OutputLayout(root).shards():
        with h5py.File(path) as file:
            found = {name: file[name][:] for name in file if isinstance(file[name], h5py.Dataset)}
            found |= {name: file[f"samples/{name}"][:] for name in ("source_file", "source_line")}
            lengths, images = file["samples/length"][:], np.diff(file["images/offsets"][:])
            found["modality_lengths"] = np.where(images > 0, lengths, file.attrs["num_patches"] - lengths)
            paths = iter(file["images/path"][:].tolist())
            found["image_paths"] = np.array([next(paths) if count else b"" for count in images], dtype=bytes)
        for name, column in found.items():
            columns.setdefault(name, []).append(column)
    return Written(root, {name: np.concatenate(parts) for name, parts in columns.items()})
