"""One contestant's epochs, as a process of its own: `python -m benchmarks.loading_epochs NAME FOLDER`.

The same rule for all: everything is imported and the loader made; one whole epoch to warm up, in which every row is
checked; then whole epochs, until a second is over. Workers live on from epoch to epoch. The last line on standard
output is `{"seconds": …, "rows": …, "checksum": …}`, the seconds of one epoch.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.loading_data import STORED, Checksum, SampleChecksum, photos
from benchmarks.loading_peers import BATCH, PEERS, Batches
from benchmarks.pillow_limit import PillowEpoch
from benchmarks.pixel_peers import PIXEL_PEERS

LEAST_SECONDS = 1.0
OURS, LIMIT = "ours", "Pillow"
ALL_PEERS = {**PEERS, **PIXEL_PEERS}


def main() -> None:
    """Print the result of one contestant, or write what it reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[OURS, LIMIT, *ALL_PEERS])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true", help="store the rows as this peer does, and measure nothing")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--pixels", choices=["square", "pad"])
    parser.add_argument("--stored", choices=STORED, help="ours only: images out of the shards")
    parser.add_argument("--in-order", action="store_true", help="ours only: rows as they are stored")
    parser.add_argument("--samples", action="store_true", help="check samples, however many share a row")
    options = parser.parse_args()
    # The arrays that peers give to torch are read-only, of which torch warns.
    warnings.simplefilter("ignore")
    if options.write:
        ALL_PEERS[options.name].write(options.folder)
        return
    checked: dict[str, Any] = {}
    if options.name == LIMIT:
        files = photos(options.folder)
        epoch: Callable[[], object] = PillowEpoch(files, options.pixels, max(1, options.workers))
        rows = len(files)
        epoch()
    else:
        shuffle, stored = not options.in_order, options.stored
        loader = open_loader(options.name, options.folder, options.workers, options.pixels, shuffle, stored)
        checksum = SampleChecksum() if options.samples else Checksum()
        for batch in loader:
            checksum.add(batch)
        checked, rows = checksum.to_json(), checksum.rows

        def epoch() -> int:
            return sum(len(batch["labels"]) for batch in loader)

    print(json.dumps({**timed(epoch, rows), **checked}))


def open_loader(
    name: str, folder: Path, workers: int, pixels: str | None, shuffle: bool, stored: str | None
) -> Batches:
    """The loader of a contestant, on one thread, as torch has it in workers."""
    import torch

    torch.set_num_threads(1)
    if name != OURS:
        return ALL_PEERS[name].read(folder, workers, pixels)
    from loaders import create_dataloader

    return create_dataloader(
        folder / (stored or "ours"),
        None if pixels is None or stored else folder / "photos",
        BATCH,
        image_aspect_ratio="pad" if pixels == "pad" else "square",
        shuffle=shuffle,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def timed(epoch: Callable[[], object], rows: int) -> dict[str, Any]:
    """Seconds of an epoch, of as many as fill the time.

    Raises:
        RuntimeError: an epoch did not give as many rows as the first.
    """
    epochs, began = 0, perf_counter()
    while perf_counter() - began < LEAST_SECONDS:
        given = epoch()
        epochs += 1
        if given not in (None, rows):
            raise RuntimeError(f"epoch {epochs} gave {given} rows, the first {rows}")
    return {"seconds": (perf_counter() - began) / epochs, "rows": rows, "epochs": epochs}


if __name__ == "__main__":
    main()
