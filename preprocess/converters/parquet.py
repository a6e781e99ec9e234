"""Rows of Parquet files, a few at a time. The only module that imports pyarrow, and only when it is used."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from preprocess.converters.canonical import Example, image_prefix
from preprocess.converters.dataset import Dataset, add_output_jsonl_dir, add_seed, filling
from preprocess.converters.errors import InputError
from preprocess.converters.job import Job
from preprocess.converters.sources import Source, folder, nothing_found

# Rows made into Python objects at a time; each may hold many images.
ROWS = 8


def rows(path: Path, column_names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file with their number from 0, row group by row group.

    Raises:
        InputError: pyarrow is missing, the file is no Parquet, or a column is missing.
    """
    parquet, arrow_error = _pyarrow()
    try:
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            available = file.schema_arrow.names
            missing = [name for name in column_names if name not in available]
            if missing:
                raise InputError(f"{path} has no column {missing[0]!r}, only {', '.join(available)}")
            number = 0
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(
                    batch_size=ROWS, row_groups=[group], columns=list(column_names), use_threads=False
                ):
                    for row in batch.to_pylist():
                        yield number, row
                        number += 1
    except arrow_error as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{path} cannot be read as Parquet: {said}; is the download complete?") from None


def add_arguments(parser: argparse.ArgumentParser, *, numbered: str, image_prefix: str) -> None:
    """Declare the arguments of a command that reads Parquet files and writes their images out."""
    parser.add_argument("--input_dir", type=Path, required=True, help="folder with the Parquet files")
    add_output_jsonl_dir(parser)
    parser.add_argument("--output_image_dir", type=Path, required=True, help="folder for the images; made if missing")
    parser.add_argument(
        "--image_prefix",
        required=True,
        help=f"path of --output_image_dir as seen from the parent folder of all images, such as {image_prefix}",
    )
    parser.add_argument(
        "--parquet_range",
        type=int,
        nargs=2,
        metavar=("A", "B"),
        help=f"only files whose number is at least A and less than B ({numbered}); default: all",
    )
    add_seed(parser)


def job(
    arguments: argparse.Namespace,
    path: Path,
    dataset: Dataset,
    read: Callable[[], Iterator[Source]],
    convert: Callable[[Source], Example],
) -> Job:
    """The job for one file: a JSONL file called like it, and its images."""
    # As seen from the JSONL, so that both can be moved together and still count as finished.
    images = os.path.relpath(arguments.output_image_dir, arguments.output_jsonl_dir)
    return Job(
        output=arguments.output_jsonl_dir / f"{path.stem}.jsonl",
        inputs=(path,),
        input_root=path.parent,
        settings=dataset.settings(image_prefix=prefix(arguments), output_image_dir=images, seed=arguments.seed),
        fill=filling(read, convert),
        image_dir=arguments.output_image_dir,
    )


def prefix(arguments: argparse.Namespace) -> str:
    """The `--image_prefix`, checked; and that pyarrow is there, before anything is begun."""
    _pyarrow()
    return image_prefix(arguments.image_prefix)


def files_in_range(arguments: argparse.Namespace, pattern: re.Pattern[str], expected: str) -> list[Path]:
    """The files of `--input_dir` in `--parquet_range`, by name; the first group of `pattern` is the number.

    Raises:
        InputError: there are none, or the range is none.
    """
    root = folder(arguments.input_dir, "--input_dir")
    paths = sorted(root.glob("*.parquet"), key=lambda path: path.name)
    numbered = [(int(match[1]), path) for path in paths if (match := pattern.fullmatch(path.name))]
    if not numbered:
        raise nothing_found("--input_dir", root, f"files called {expected}", "data")
    if arguments.parquet_range is None:
        return [path for _, path in numbered]
    low, high = arguments.parquet_range
    if not 0 <= low < high:
        raise InputError(f"--parquet_range is {low} {high}, expected A B with 0 <= A < B; B itself is not taken")
    chosen = [path for number, path in numbered if low <= number < high]
    if not chosen:
        numbers = sorted({number for number, _ in numbered})
        raise InputError(
            f"--parquet_range is {low} {high}, and no file in {root} has a number in it; "
            f"their numbers go from {numbers[0]} to {numbers[-1]}"
        )
    return chosen


def _pyarrow() -> tuple[Any, type[Exception]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("reading Parquet needs pyarrow; install it with pip install 'llava-hdf5[parquet]'") from None
    return pyarrow.parquet, pyarrow.ArrowException
