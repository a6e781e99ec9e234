"""`python -m benchmarks.batch_transport`: rows/s from two workers that send batches as arrays or as tensors."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.loading_data import write_dataset
from loaders import collate
from loaders.dataloader import create_dataloader

_ROWS, _REPEATS = 40_000, 4


def _as_tensors(batch: collate.Batch) -> tuple[Any, ...]:
    return collate._restore, (dict(batch), batch.failed_images)


def _rows_per_second(folder: Path) -> float:
    batches = iter(create_dataloader(folder, batch_size=64, num_workers=2))
    next(batches)
    start, rows = time.perf_counter(), 0
    for batch in batches:
        rows += len(batch["labels"])
    return rows / (time.perf_counter() - start)


def main() -> None:
    """Print one line per repeat."""
    as_arrays = collate.Batch.__reduce__
    with tempfile.TemporaryDirectory() as name:
        dataset = write_dataset(Path(name), _ROWS, with_images=False) / "ours"
        for _ in range(_REPEATS):
            rates = []
            for way in (as_arrays, _as_tensors):
                setattr(collate.Batch, "__reduce__", way)  # noqa: B010
                rates.append(_rows_per_second(dataset))
            print(
                f"arrays {rates[0]:,.0f}, tensors {rates[1]:,.0f} rows/s, ratio {rates[0] / rates[1]:.2f}", flush=True
            )


if __name__ == "__main__":
    main()
