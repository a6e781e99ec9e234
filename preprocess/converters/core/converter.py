"""The description of a source dataset for the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from preprocess.converters.core.canonical import Record
from preprocess.converters.core.job import Job, Sink
from preprocess.converters.core.sources import SourceRecord


@dataclass(frozen=True, kw_only=True)
class Converter:
    """A source dataset as a command.

    Args:
        name: of the command.
        version: incremented when the same input gives different output, so that an older output does not count as
            finished.
        help: one line for the list of commands.
        description: the input and output of the command, for its help.
        example: the arguments of a typical call.
        add_arguments: declares the command's arguments.
        plan: arguments → the outputs to write; raises InputError for invalid arguments or inputs.
    """

    name: str
    version: int
    help: str
    description: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    plan: Callable[[argparse.Namespace], list[Job]]

    def settings(self, **arguments: str | int) -> dict[str, str | int]:
        """The settings of a job of this dataset."""
        return {"converter": self.name, "converter_version": self.version, **arguments}


def filling(
    read: Callable[[], Iterator[SourceRecord]], convert: Callable[[SourceRecord], Record]
) -> Callable[[Sink], None]:
    """The `fill` function of a job that converts each source record to one record."""
    return partial(_fill, read, convert)


def _fill(read: Callable[[], Iterator[SourceRecord]], convert: Callable[[SourceRecord], Record], sink: Sink) -> None:
    sink.convert(read(), convert)


def add_dataset_folder(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare `--dataset_folder`, and `--output_jsonl_dir` with its default inside that folder."""
    parser.add_argument("--dataset_folder", type=Path, required=True, help=what)
    parser.add_argument(
        "--output_jsonl_dir", type=Path, help="folder for the JSONL; default: llava_jsonl in the dataset folder"
    )


def add_output_jsonl_dir(parser: argparse.ArgumentParser) -> None:
    """Declare a required `--output_jsonl_dir`."""
    parser.add_argument("--output_jsonl_dir", type=Path, required=True, help="folder for the JSONL; created if missing")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Declare `--seed`."""
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the random choices, which also depend on the record id (default: 0)",
    )


def output_folder(arguments: argparse.Namespace) -> Path:
    """The folder for the JSONL: as given, or inside the dataset folder."""
    given: Path | None = arguments.output_jsonl_dir
    dataset_folder: Path = arguments.dataset_folder
    return dataset_folder / "llava_jsonl" if given is None else given
