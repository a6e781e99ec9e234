"""Cost of the loader's checks, in rows per second of CPU time on one core.

    python -m benchmarks.checksums OUTPUT_DIR        # of create_hdf5_dataset; docs/loaders.md, "Integrity checks"

Needs torch. Reads all rows in stored order, without images, in three ways: without checking the Adler-32 of the chunks,
as the loader normally does, and with `verify=True`, which also checks the sha256 of each shard. The three take turns,
and the fastest run of each counts.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import torch
from isal import isal_zlib

from loaders import create_dataloader, shard_reader


class _WithoutAdler:
    """Replacement of `isal_zlib` in the reader that inflates raw deflate, so that no Adler-32 is computed."""

    error = isal_zlib.error

    @staticmethod
    def decompress(data: bytes, **options: Any) -> bytes:
        return isal_zlib.decompress(data[2:-4], wbits=-15, **options)

    class decompressobj:
        def decompress(self, data: bytes, size: int) -> bytes:
            return isal_zlib.decompressobj(wbits=-15).decompress(data[2:-4], size)


_CHECKED = isal_zlib, shard_reader._adler32_with_zeros
_UNCHECKED = _WithoutAdler, lambda *_: ANY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    try:
        create_dataloader(arguments.output_dir)
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    root, rows = arguments.output_dir, 0
    best = {"no checksum": 0.0, "Adler-32 (the default)": 0.0, "Adler-32 and sha256 (verify=True)": 0.0}
    for _ in range(arguments.repeats):
        for name in best:
            found = _UNCHECKED if name == "no checksum" else _CHECKED
            shard_reader.isal_zlib, shard_reader._adler32_with_zeros = found  # type: ignore[assignment]
            loader = create_dataloader(root, None, 16, shuffle=False, verify="verify" in name)
            began = time.process_time()
            rows = sum(len(batch["labels"]) for batch in loader)
            best[name] = max(best[name], rows / (time.process_time() - began))
    size = sum(path.stat().st_size for path in root.glob("*.h5"))
    print(f"{rows:,} rows, {size / rows:,.0f} bytes a row on disk")
    for name, rate in best.items():
        print(f"{name:<34}  {rate:>8,.0f} rows/s  {rate / best['no checksum']:>7.1%}")


if __name__ == "__main__":
    main()
