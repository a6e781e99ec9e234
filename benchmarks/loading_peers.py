"""Loaders that ours is compared with: how each stores and reads our rows, following its documentation.

Each library is imported inside its functions, so that a process that measures one does not load the others. Arrays are
stored with the dtypes of the shards (ids int32, masks one byte) and returned as int32, as ours are. A photo is stored
as the bytes of its JPEG and decoded by `pillow_pixels`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.loading_data import LENGTH, TEXT_KEYS, columns_of, rows_of, shards
from benchmarks.pillow_limit import pillow_pixels

BATCH = 16
MASKS = TEXT_KEYS[2:]
_DTYPES = dict(zip(TEXT_KEYS, ("int32", "int32", "uint8", "uint8"), strict=True))
Batches = Iterable[Any]


@dataclass(frozen=True)
class Peer:
    """`write(root)` stores the rows of `root/ours` in `root/folder`; `read(root, workers, pixels)` creates a loader.

    A loader is iterated over once per epoch. `pixels` is None, or the aspect ratio of the images to decode.
    """

    folder: str
    write: Callable[[Path], None]
    read: Callable[[Path, int, str | None], Batches]
    not_included: str


def decoded(row: dict[str, Any], aspect_ratio: str | None) -> dict[str, Any]:
    """Replace the JPEG of a row by `image_data`."""
    if aspect_ratio is None:
        return row
    image = row.pop("image")
    return {**row, "image_data": pillow_pixels(io.BytesIO(image), aspect_ratio)}


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate as `DataLoader` does by default, with the masks as int32."""
    import torch
    from torch.utils.data import default_collate

    batch: dict[str, Any] = default_collate(rows)
    return {**batch, **{key: batch[key].to(torch.int32) for key in MASKS}}


def worker_options(workers: int) -> dict[str, Any]:
    """Options of a loader; workers persist between epochs, as in ours."""
    return {"num_workers": workers, "persistent_workers": workers > 0}


def write_mosaicml(folder: Path) -> None:
    # "Serializing ndarrays with fixed dtype and shape is more efficient"; shards of the default size. Not
    # compressed: compressed shards are decompressed to disk on first use, and later reads use the decompressed files.
    from streaming import MDSWriter

    columns = {key: f"ndarray:{dtype}:{LENGTH}" for key, dtype in _DTYPES.items()} | {"has_image": "uint8"}
    if (folder / "photos").is_dir():
        columns["image"] = "bytes"
    with MDSWriter(out=str(folder / "mosaicml"), columns=columns) as writer:
        for shard in shards(folder):
            for row in rows_of(shard):
                writer.write(row)


def read_mosaicml(folder: Path, workers: int, pixels: str | None) -> Batches:
    from streaming import StreamingDataLoader, StreamingDataset

    class Rows(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return decoded(super().__getitem__(at), pixels)

    dataset = Rows(local=str(folder / "mosaicml"), shuffle=True, batch_size=BATCH)
    return StreamingDataLoader(dataset, batch_size=BATCH, collate_fn=collate, **worker_options(workers))


def write_litdata(folder: Path) -> None:
    from litdata import optimize

    optimize(
        fn=rows_of,
        inputs=shards(folder),
        output_dir=str(folder / "litdata"),
        num_workers=2,
        chunk_bytes="64MB",
        verbose=False,
    )


def read_litdata(folder: Path, workers: int, pixels: str | None) -> Batches:
    from litdata import StreamingDataLoader, StreamingDataset

    transform = None if pixels is None else partial(decoded, aspect_ratio=pixels)
    dataset = StreamingDataset(str(folder / "litdata"), shuffle=True, drop_last=True, transform=transform)
    return StreamingDataLoader(dataset, batch_size=BATCH, collate_fn=collate, **worker_options(workers))


def write_webdataset(folder: Path) -> None:
    from webdataset import ShardWriter

    (folder / "webdataset").mkdir()
    paths = shards(folder)
    for number, shard in enumerate(paths):
        pattern = str(folder / "webdataset" / "rows-%06d.tar")
        with ShardWriter(pattern, start_shard=number, verbose=0) as writer:
            for at, row in enumerate(rows_of(shard)):
                sample = {f"{key}.npy": row[key] for key in TEXT_KEYS}
                if "image" in row:
                    sample["jpg"] = row["image"]
                writer.write({"__key__": f"{number:06d}{at:06d}", **sample, "cls": int(row["has_image"])})


def read_webdataset(folder: Path, workers: int, pixels: str | None) -> Batches:
    # Batches are made in the workers, with a loader of batch_size=None, as its documentation recommends.
    from webdataset import WebDataset, WebLoader

    def as_row(sample: dict[str, Any]) -> dict[str, Any]:
        row = {key: sample[f"{key}.npy"] for key in TEXT_KEYS}
        row["has_image"] = sample["cls"]
        return row if pixels is None else decoded({**row, "image": sample["jpg"]}, pixels)

    tars = sorted(str(path) for path in (folder / "webdataset").glob("*.tar"))
    rows = WebDataset(tars, shardshuffle=len(tars)).shuffle(2000).decode().map(as_row)
    dataset = rows.batched(BATCH, collation_fn=collate, partial=False)
    return WebLoader(dataset, batch_size=None, **worker_options(workers))


def write_datasets(folder: Path) -> None:
    # A fixed length in the type avoids checking the shape of every row, as its documentation recommends.
    import pyarrow
    from datasets import Dataset, concatenate_datasets

    parts = []
    for shard in shards(folder):
        columns = columns_of(shard)
        for key in TEXT_KEYS:
            columns[key] = pyarrow.FixedSizeListArray.from_arrays(columns[key].ravel(), LENGTH)
        parts.append(Dataset(pyarrow.table(columns)))
    concatenate_datasets(parts).save_to_disk(str(folder / "datasets"))


def read_datasets(folder: Path, workers: int, pixels: str | None) -> Batches:
    import torch
    from datasets import load_from_disk
    from torch.utils.data import DataLoader

    dataset = load_from_disk(str(folder / "datasets")).with_format("torch", dtype=torch.int32)
    return DataLoader(
        dataset,
        batch_size=BATCH,
        shuffle=True,
        collate_fn=lambda rows: collate([decoded(row, pixels) for row in rows]),
        **worker_options(workers),
    )


_NO_CHECK = "no checksum when reading"
PEERS = {
    "MosaicML Streaming": Peer("mosaicml", write_mosaicml, read_mosaicml, _NO_CHECK),
    "LitData": Peer("litdata", write_litdata, read_litdata, f"{_NO_CHECK}; shuffles within 256 rows"),
    "WebDataset": Peer("webdataset", write_webdataset, read_webdataset, f"{_NO_CHECK}; no resuming"),
    "Hugging Face datasets": Peer("datasets", write_datasets, read_datasets, f"{_NO_CHECK}; no resuming"),
}
