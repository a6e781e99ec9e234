"""Rows per second of the loaders on one core, beside Pillow's own decode + resize + normalise in the same run.

    python -m benchmarks.loaders                        # the table of docs/loaders.md
    python -m benchmarks.loaders --rows 2000 --repeats 3

Needs torch. Writes a dataset of the embedded conversations, and photo-like JPEGs of 640 x 480 (or uses the files of
`--image-dir`), into a temporary folder. Everything runs in this process on one thread; each measurement is repeated
and the fastest counts, in processor time and with ours and Pillow's in turns, so that a busy machine slows both.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hdf5_writer.run import create_dataset
from loaders import create_dataloader
from loaders.images import CLIP_MEAN, CLIP_STD, PAD_COLOUR
from preprocess.config import build_config

QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart"
SIZE = 336


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="rows of the dataset without images")
    parser.add_argument("--images", type=int, default=100, help="rows of the dataset with images, one image each")
    parser.add_argument("--image-dir", type=Path, help="take the JPEGs of this folder instead of drawn ones")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        print("| what | rows/s on one core | of the limit |\n|---|---:|---:|")
        text = write_dataset(root / "text", arguments.rows, [])
        for shuffle in (False, True):
            seconds = fastest(
                lambda s=shuffle: exhaust(create_dataloader(text, None, 16, shuffle=s)), arguments.repeats
            )
            name = "shuffled" if shuffle else "in stored order"
            print(f"| without images, {name} | {arguments.rows // 16 * 16 / seconds:,.0f} | |", flush=True)
        image_dir = arguments.image_dir or draw_photos(root / "photos", min(arguments.images, 50))
        files = sorted(path for path in image_dir.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        files = [files[i % len(files)] for i in range(arguments.images)]
        data = write_dataset(root / "images", len(files), [str(file.relative_to(image_dir)) for file in files])
        for aspect_ratio in ("square", "pad"):
            loader = create_dataloader(data, image_dir, 10, image_aspect_ratio=aspect_ratio, shuffle=False)
            ours, limit = in_turns(
                lambda loader=loader: exhaust(loader),
                lambda mode=aspect_ratio: exhaust(pillow_pixels(file, mode) for file in files),
                arguments.repeats,
            )
            rows = len(files) // 10 * 10
            print(f"| `{aspect_ratio}` images | {rows / ours:,.0f} | {rows / ours / (len(files) / limit):.2f} |")
            print(f"| Pillow alone, {aspect_ratio} | {len(files) / limit:,.0f} | 1 |", flush=True)


def pillow_pixels(file: Path, aspect_ratio: str) -> Any:
    """The limit: what anyone would write with Pillow and numpy, and no more."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    if aspect_ratio == "pad" and image.width != image.height:
        edge = max(image.size)
        square = Image.new("RGB", (edge, edge), PAD_COLOUR)
        square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
        image = square
    short = min(image.size)
    width, height = (int(SIZE * edge / short) for edge in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), dtype=np.float32)
    pixels = (pixels / 255 - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float16)


def write_dataset(folder: Path, rows: int, images: list[str]) -> Path:
    """The embedded conversations again and again, as phase 2 has them: 2,048 positions, 576 of them for the image."""
    lines = (QUICKSTART / "phase_2" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record.get("image")]
    (folder / "in").mkdir(parents=True)
    with (folder / "in" / "records.jsonl").open("w", encoding="utf-8") as file:
        for number in range(rows):
            record = dict(records[number % len(records)])
            if images:
                record["image"] = images[number]
            file.write(json.dumps(record) + "\n")
    values: dict[str, dict[str, Any]] = {
        "setup": {"input_dir": str(folder / "in"), "output_dir": str(folder / "out"), "samples_per_shard": 5000},
        "processor": {"tokenizer_type": str(QUICKSTART / "tokenizer"), "max_sequence_length": 2048},
        "dataset": {"check_images": "none", "system_prompt_style": "vicuna_v1"},
    }
    create_dataset(build_config(values, "benchmark", folder), Silent())
    return folder / "out"


def draw_photos(folder: Path, count: int) -> Path:
    """JPEGs that decode as slowly as photos: an embedded picture under smooth noise."""
    folder.mkdir(parents=True)
    pictures = sorted((QUICKSTART / "images").rglob("*.png"))
    generator = np.random.default_rng(0)
    for number in range(count):
        with Image.open(pictures[number % len(pictures)]) as picture:
            base = picture.convert("RGB").resize((640, 480))
        noise = Image.fromarray(generator.integers(0, 256, (120, 160, 3), dtype=np.uint8)).resize((640, 480))
        Image.blend(base, noise, 0.4).save(folder / f"{number:04d}.jpg", quality=90)
    return folder


def fastest(run: Callable[[], None], repeats: int) -> float:
    return min(measure(run) for _ in range(repeats))


def in_turns(ours: Callable[[], None], limit: Callable[[], None], repeats: int) -> tuple[float, float]:
    pairs = [(measure(ours), measure(limit)) for _ in range(repeats)]
    return min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)


def measure(run: Callable[[], None]) -> float:
    # Processor time: a machine that does other things at once does not count.
    began = time.process_time()
    run()
    return time.process_time() - began


def exhaust(items: Iterable[object]) -> None:
    for _ in items:
        pass


class Silent:
    """Tells nothing of the run of the main job."""

    def planned(self, plan: object, done: int) -> None: ...

    def advance(self, task: object) -> None: ...

    def close(self) -> None: ...


if __name__ == "__main__":
    main()
