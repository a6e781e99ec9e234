"""Shared code of the commands for published datasets: arguments, outputs, and conversion of rows."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from preprocess.converters.core.canonical import ImageFile, an_object, identifier, image_prefix
from preprocess.converters.core.converter import Converter, add_output_jsonl_dir, filling
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.image_store import named_by_content
from preprocess.converters.core.job import Job
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord, files
from preprocess.converters.published.dialogue import Dialogue, with_image_tokens
from preprocess.converters.published.layouts import ID, IMAGE, TEXT, Layout
from preprocess.rejects import Rejected


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The settings for converting the rows of one file.

    Args:
        layout: the meaning of the columns.
        columns: role → column, for the roles that have one.
        id_prefix: prefix of record ids, which are followed by the id of the row, or its number.
        image_prefix: see `Dialogue.prefix`.
        min_ratings: column → minimum rating of a turn.
    """

    layout: Layout
    columns: Mapping[str, str]
    id_prefix: str
    image_prefix: str
    min_ratings: Mapping[str, int] = field(default_factory=dict)

    def convert(self, source: SourceRecord) -> Dialogue:
        """One row.

        Raises:
            Rejected: the row is not a conversation, lacks images, or its rating is too low.
        """
        row = an_object(source.value)
        value, left_out = row.get(self.columns[TEXT]), 0
        if self.min_ratings:
            value, left_out = drop_low_ratings(value, row, self.min_ratings)
        images = images_of(row.get(self.columns[IMAGE])) if IMAGE in self.columns else ()
        turns, images = self.layout.read(value, images)
        own_id = row.get(self.columns[ID]) if ID in self.columns else None
        return Dialogue(
            id=f"{self.id_prefix}/{source.number if own_id in (None, '') else identifier(own_id, 'id')}",
            turns=with_image_tokens(turns, len(images), at_head=self.layout.tokens_at_head),
            image_files=images,
            prefix=self.image_prefix,
            turns_left_out=left_out,
        )


def images_of(value: object) -> tuple[ImageFile, ...]:
    """The images of a row: one or a list, each {"bytes", "path"} or raw bytes; empty if there are none.

    Raises:
        Rejected: NO_IMAGE, if one has no bytes; IMAGE_DOES_NOT_DECODE, if one is not an image.
    """
    if value is None:
        return ()
    images = []
    for number, cell in enumerate(value if isinstance(value, list) else [value], 1):
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes) or not data:
            found = "null" if cell is None else "a path" if isinstance(cell, str) else "without bytes"
            raise Rejected(SourceReason.NO_IMAGE, f"image {number} is {found}, expected the bytes of an image")
        images.append(named_by_content(data))
    return tuple(images)


def drop_low_ratings(value: object, row: Mapping[str, Any], least: Mapping[str, int]) -> tuple[object, int]:
    """The turns with sufficient ratings, and the number of dropped turns.

    A column rates either each turn of the list or the whole row. Turns without a rating are kept.

    Raises:
        Rejected: BELOW_MIN_RATING, if no turn is left; WRONG_COLUMNS, if a column does not contain ratings.
    """
    low: set[int] = set()
    for column, minimum in least.items():
        rating = row.get(column)
        if isinstance(rating, list) and all(each is None or isinstance(each, (int, float)) for each in rating):
            low |= {place for place, each in enumerate(rating) if each is not None and each < minimum}
        elif isinstance(rating, (int, float)):
            if rating < minimum:
                raise Rejected(SourceReason.BELOW_MIN_RATING, f"{column} is {rating}, expected at least {minimum}")
        elif rating is not None:
            raise Rejected(SourceReason.WRONG_COLUMNS, f"{column} is {type(rating).__name__}, expected numbers")
    if not isinstance(value, list):
        return value, 0
    kept = [turn for place, turn in enumerate(value) if place not in low]
    if value and not kept:
        raise Rejected(SourceReason.BELOW_MIN_RATING, f"all {len(value)} turns have lower ratings than {listed(least)}")
    return kept, len(value) - len(kept)


def add_arguments(parser: argparse.ArgumentParser, *, suffix: str) -> None:
    """Declare the arguments of both commands."""
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        required=True,
        help=f"{suffix} files, or folders that are searched for them recursively",
    )
    add_output_jsonl_dir(parser)
    parser.add_argument(
        "--output_image_dir", type=Path, required=True, help="folder for the images; created if missing"
    )
    parser.add_argument(
        "--image_prefix",
        help="path of --output_image_dir relative to the parent folder of all images, such as FineVision/images; "
        "default: --output_image_dir is the parent folder",
    )


def prefix(arguments: argparse.Namespace) -> str:
    """The `--image_prefix` in the form that precedes image paths."""
    return "" if arguments.image_prefix is None else f"{image_prefix(arguments.image_prefix)}/"


class Place(NamedTuple):
    """An input file, the folder that its name is relative to, and its output."""

    root: Path
    path: Path
    output: Path

    @property
    def name(self) -> str:
        """The path of the file relative to `root`."""
        return self.path.relative_to(self.root).as_posix()

    @property
    def id_prefix(self) -> str:
        """The name without its suffix, used as prefix of record ids."""
        return self.path.relative_to(self.root).with_suffix("").as_posix()


def places(arguments: argparse.Namespace, suffix: str) -> list[Place]:
    """Each input, and its output in the same sub-folder.

    Raises:
        InputError: no inputs, or two of them with the same output.
    """
    found: dict[Path, Place] = {}
    for root, path in files(arguments.input, "--input", suffix):
        output = arguments.output_jsonl_dir / path.relative_to(root).with_suffix(".jsonl")
        if output in found:
            raise InputError(
                f"{found[output].path} and {path} would both be written to {output}; use separate output folders"
            )
        found[output] = Place(root, path, output)
    return list(found.values())


def job(
    arguments: argparse.Namespace,
    dataset: Converter,
    place: Place,
    read: Callable[[], Iterator[SourceRecord]],
    convert: Callable[[SourceRecord], Dialogue],
    *,
    note: str = "",
    **settings: str,
) -> Job:
    """The job for one file: a JSONL file of the same name, and its images."""
    # Relative to the JSONL, so that both can be moved together and still count as finished.
    images = os.path.relpath(arguments.output_image_dir, arguments.output_jsonl_dir)
    return Job(
        output=place.output,
        inputs=(place.path,),
        input_root=place.root,
        settings=dataset.settings(image_prefix=prefix(arguments), output_image_dir=images, **settings),
        fill=filling(read, convert),
        image_dir=arguments.output_image_dir,
        note=note,
    )


def unread(source: SourceRecord) -> Dialogue:
    """Replaces `Reading.convert` for an unreadable file, which yields only a reject."""
    raise TypeError(f"{source.file}: {source.position} is {type(source.value).__name__}, expected a reject")


def pairs(values: list[str] | None, argument: str, form: str) -> dict[str, str]:
    """Parse `name=value` arguments.

    Raises:
        InputError: an argument has another form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for value in values or ():
        name, sign, what = value.partition("=")
        if not name or not sign or not what:
            raise InputError(f"{argument} is {value!r}, expected {form}")
        if name in found:
            raise InputError(f"{argument} gives {name} twice, {found[name]!r} and {what!r}; give it once")
        found[name] = what
    return found


def listed(settings: Mapping[str, object]) -> str:
    """`name=value, …`, sorted by name."""
    return ", ".join(f"{name}={value}" for name, value in sorted(settings.items()))
