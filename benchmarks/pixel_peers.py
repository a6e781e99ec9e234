"""Other loaders that store pixels, uint8 (3, 336, 336), as ours does with `dataset.store_images: pixels`.

Loading an image then only normalises it, in float32 with numpy, and converts it to float16.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.loading_data import LENGTH, rows_of, shards
from benchmarks.loading_peers import BATCH, MASKS, Batches, Peer, collate, worker_options
from benchmarks.pillow_limit import SIZE, normalised, squared

_TEXT = {"text_input_ids": "int32", "labels": "int32", **dict.fromkeys(MASKS, "uint8")}


def rows_with_pixels(shard: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a shard with pixels in place of the JPEG."""
    for row in rows_of(shard):
        pixels = squared(Image.open(BytesIO(row["image"])), "square")
        yield {**row, "image": np.ascontiguousarray(pixels.transpose(2, 0, 1))}


def with_values(row: dict[str, Any]) -> dict[str, Any]:
    """Replace the pixels of a row by `image_data`."""
    image = np.asarray(row.pop("image")).reshape(3, SIZE, SIZE)
    return {**row, "image_data": normalised(image)}


def write_litdata(folder: Path) -> None:
    from litdata import optimize

    inputs, output = shards(folder), str(folder / "litdata-pixels")
    optimize(fn=rows_with_pixels, inputs=inputs, output_dir=output, num_workers=2, chunk_bytes="64MB", verbose=False)


def read_litdata(folder: Path, workers: int, pixels: str | None) -> Batches:
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(folder / "litdata-pixels"), shuffle=True, drop_last=True, transform=with_values)
    return StreamingDataLoader(dataset, batch_size=BATCH, collate_fn=collate, **worker_options(workers))


def write_mosaicml(folder: Path) -> None:
    from streaming import MDSWriter

    columns = {key: f"ndarray:{dtype}:{LENGTH}" for key, dtype in _TEXT.items()}
    columns |= {"has_image": "uint8", "image": f"ndarray:uint8:3,{SIZE},{SIZE}"}
    with MDSWriter(out=str(folder / "mosaicml-pixels"), columns=columns) as writer:
        for shard in shards(folder):
            for row in rows_with_pixels(shard):
                writer.write(row)


def read_mosaicml(folder: Path, workers: int, pixels: str | None) -> Batches:
    from streaming import StreamingDataLoader, StreamingDataset

    class Rows(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return with_values(super().__getitem__(at))

    dataset = Rows(local=str(folder / "mosaicml-pixels"), shuffle=True, batch_size=BATCH)
    return StreamingDataLoader(dataset, batch_size=BATCH, collate_fn=collate, **worker_options(workers))


PIXEL_PEERS = {
    "MosaicML Streaming, pixels": Peer("mosaicml-pixels", write_mosaicml, read_mosaicml, "no checksum when reading"),
    "LitData, pixels": Peer(
        "litdata-pixels", write_litdata, read_litdata, "no checksum when reading; shuffles within 256 rows"
    ),
}
