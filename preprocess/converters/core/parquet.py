"""Stream rows of Parquet files. The only module that imports pyarrow, and only on use."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preprocess.converters.core.canonical import Record, image_prefix
from preprocess.converters.core.converter import Converter, add_output_jsonl_dir, add_seed, filling
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.job import Job
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord, folder, nothing_found
from preprocess.rejects import Rejected

# Rows converted to Python objects at a time; each may contain many images.
ROWS = 8


def rows(path: Path, column_names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any] | Rejected]]:
    """The rows of a file with their number from 0, each with the named columns or as a reject.

    One page of each column is held in memory, not a row group. If a row group is damaged, its remaining rows are
    rejects, and reading continues with the next row group. A file that is not Parquet, or is truncated, is a single
    reject, since the index of its rows is at its end.

    Raises:
        InputError: pyarrow is missing, or a column is missing.
    """
    _, arrow_error = _pyarrow()
    with _opened(path) as file:
        if isinstance(file, Rejected):
            yield 0, file
            return
        available = file.schema_arrow.names
        missing = [name for name in column_names if name not in available]
        if missing:
            raise InputError(
                f"{path} has no column {missing[0]!r}, only {', '.join(available)}; check that this is the right file"
            )
        number = 0
        for group in range(file.num_row_groups):
            end = number + file.metadata.row_group(group).num_rows
            damage = "the row group ends early"
            try:
                for batch in file.iter_batches(
                    batch_size=ROWS, row_groups=[group], columns=list(column_names), use_threads=False
                ):
                    for place in range(batch.num_rows):
                        yield number, _row(batch.slice(place, 1))
                        number += 1
            except (arrow_error, OSError) as error:
                damage = _damage(error)
            for unread in range(number, end):
                yield unread, Rejected(SourceReason.UNREADABLE_ROW, f"row group {group} cannot be read: {damage}")
            number = end


def columns(path: Path) -> list[str] | None:
    """The column names of a file, in order; None if `rows` yields only a reject.

    Raises:
        InputError: pyarrow is missing.
    """
    with _opened(path) as file:
        return None if isinstance(file, Rejected) else list(file.schema_arrow.names)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, or a reject if it is not readable."""
    parquet, arrow_error = _pyarrow()
    try:
        file = parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
    except (arrow_error, OSError) as error:
        detail = f"the file cannot be read as Parquet ({_damage(error)}); check that the download is complete"
        yield Rejected(SourceReason.UNREADABLE_FILE, detail)
        return
    with file:
        yield file


def _row(one: Any) -> dict[str, Any] | Rejected:
    """The one row of a batch."""
    try:
        (row,) = one.to_pylist()
    except UnicodeDecodeError as error:
        return Rejected(
            SourceReason.NOT_UTF8, f"a text has the byte 0x{error.object[error.start]:02x}, expected valid UTF-8"
        )
    except (ValueError, OverflowError) as error:
        return Rejected(SourceReason.UNREADABLE_ROW, _damage(error))
    found: dict[str, Any] = row
    return found


def _damage(error: Exception) -> str:
    """The error of pyarrow for a damaged file, in one line. An OSError with an errno comes from the disk instead."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return " ".join(str(error).split())[:300]


def add_arguments(parser: argparse.ArgumentParser, *, numbered: str, image_prefix: str) -> None:
    """Declare the arguments of a command that reads Parquet files and extracts their images."""
    parser.add_argument("--input_dir", type=Path, required=True, help="folder with the Parquet files")
    add_output_jsonl_dir(parser)
    parser.add_argument(
        "--output_image_dir", type=Path, required=True, help="folder for the images; created if missing"
    )
    parser.add_argument(
        "--image_prefix",
        required=True,
        help=f"path of --output_image_dir relative to the parent folder of all images, such as {image_prefix}",
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
    dataset: Converter,
    read: Callable[[], Iterator[SourceRecord]],
    convert: Callable[[SourceRecord], Record],
) -> Job:
    """The job for one file: a JSONL file of the same name, and its images."""
    # Relative to the JSONL, so that both can be moved together and still count as finished.
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
    """The validated `--image_prefix`. Also checks that pyarrow is installed, before any work starts."""
    _pyarrow()
    return image_prefix(arguments.image_prefix)


def files_in_range(arguments: argparse.Namespace, pattern: re.Pattern[str], expected: str) -> list[Path]:
    """The files of `--input_dir` in `--parquet_range`, by name; the first group of `pattern` is the number.

    Raises:
        InputError: there are no files, or the range is invalid.
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
        raise InputError(f"--parquet_range is {low} {high}, expected A B with 0 <= A < B, where B is exclusive")
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
