"""Measure the epochs of one contestant in this process: `python -m benchmarks.loading_epochs NAME FOLDER`.

The procedure is the same for all: import everything and create the loader; one epoch to warm up, in which every row is
checked; then whole epochs for at least one second. Workers persist between epochs. The last line on standard output is
`{"seconds": …, "rows": …, "checksum": …}`, with the seconds of one epoch.
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

MIN_SECONDS = 1.0
OURS, LIMIT = "ours", "Pillow"
ALL_PEERS = {**PEERS, **PIXEL_PEERS}


def main() -> None:
    """Print the result of one contestant, or store the rows in its format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[OURS, LIMIT, *ALL_PEERS])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--write", action="store_true", help="store the rows in the format of this peer, and measure nothing"
    )
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--pixels", choices=["square", "pad"])
    parser.add_argument("--stored", choices=STORED, help="ours only: read images from the shards")
    parser.add_argument("--in-order", action="store_true", help="ours only: rows in stored order")
    parser.add_argument("--samples", action="store_true", help="check samples instead of rows, for packed rows")
    options = parser.parse_args()
    # torch warns about the read-only arrays of some peers.
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
    """Create the loader of a contestant; torch uses one thread, as in workers."""
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
    """Measure the mean seconds of an epoch over at least `MIN_SECONDS`.

    Raises:
        RuntimeError: an epoch returned a different number of rows than the first.
    """
    epochs, began = 0, perf_counter()
    while perf_counter() - began < MIN_SECONDS:
        given = epoch()
        epochs += 1
        if given not in (None, rows):
            raise RuntimeError(f"epoch {epochs} returned {given} rows, the first {rows}")
    return {"seconds": (perf_counter() - began) / epochs, "rows": rows, "epochs": epochs}


if __name__ == "__main__":
    main()
