"""Parquet files that contain images, as most datasets on the Hub do.

Reads the files of --input in one of these layouts, which is detected from the column names:
  finevision  images, texts: [{"user", "assistant"}], and ratings of the turns
  cauldron    images, texts: [{"user", "assistant"}]
  llava       id, image (may be null), conversations: [{"from", "value"}]
  messages    messages: [{"role", "content"}], content a string or parts {"type", "text", "index"}; images
  caption     id, image, caption
An image is {"bytes", "path"} or raw bytes; image or images, one or a list. If the texts of a layout have no <image>,
the images are put before the first text of the user.
Writes <name of the file>.jsonl, and the images as <output_image_dir>/ab/cd/<sha256>.jpg with their original bytes, once
per content. One image is "image": path, several are "image": [path, ...]. The id is the name of the file with the id of
the row, or with its number from 0. Rejected: an image without bytes or that cannot be decoded, unequal numbers of
<image> and images, a turn that is not a string, ratings below --min_rating, an incomplete file.
Needs pyarrow: pip install 'llava-hdf5[parquet]'
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from preprocess.converters.core import parquet
from preprocess.converters.core.converter import Converter
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.job import Job
from preprocess.converters.core.sources import SourceRecord
from preprocess.converters.published import conversion
from preprocess.converters.published.conversion import Place, Reading, listed
from preprocess.converters.published.layouts import AUTO, NAMES, ROLES, TEXT, require_layout


def _rows(path: Path, name: str, columns: list[str]) -> Iterator[SourceRecord]:
    for number, row in parquet.rows(path, columns):
        yield SourceRecord(name, f"row {number}", number, row)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    conversion.add_arguments(parser, suffix=".parquet")
    parser.add_argument(
        "--layout", choices=(AUTO, *NAMES), default=AUTO, help="layout of the files (default: auto, from the columns)"
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="ROLE=NAME",
        help=f"column names that differ from the layout; roles: {', '.join(ROLES)}",
    )
    parser.add_argument(
        "--min_rating",
        nargs="+",
        metavar="COLUMN=N",
        help="with finevision: drop turns rated below N in a column such as relevance_ratings, or rows rated below N "
        "in a column such as relevance_min",
    )


def _plan(arguments: argparse.Namespace) -> list[Job]:
    given = conversion.pairs(arguments.columns, "--columns", f"role=name with a role of {', '.join(ROLES)}")
    for role in given:
        if role not in ROLES:
            raise InputError(f"--columns names the role {role!r}, expected one of {', '.join(ROLES)}")
    if TEXT in given and arguments.layout == AUTO:
        raise InputError(f"--columns {TEXT}={given[TEXT]} requires --layout, which defines the contents of that column")
    min_ratings = _min_ratings(arguments)
    return [_job(arguments, place, given, min_ratings) for place in conversion.places(arguments, ".parquet")]


def _job(arguments: argparse.Namespace, place: Place, given: Mapping[str, str], min_ratings: Mapping[str, int]) -> Job:
    available = parquet.columns(place.path)
    if available is None:
        read = partial(_rows, place.path, place.name, [])
        return conversion.job(
            arguments,
            CONVERTER,
            place,
            read,
            conversion.unread,
            layout="",
            columns="",
            min_rating=listed(min_ratings),
        )
    layout = require_layout(available, arguments.layout, given, str(place.path))
    if min_ratings and not layout.rated:
        raise InputError(f"{place.path} has the layout {layout.name}, but --min_rating requires finevision; remove it")
    columns = layout.find(available, given)
    used = [*columns.values(), *min_ratings]
    if missing := [name for name in min_ratings if name not in available]:
        raise InputError(
            f"{place.path} has no column {missing[0]!r} for --min_rating, only {', '.join(available)}; correct "
            "--min_rating"
        )
    reading = Reading(
        layout=layout,
        columns=columns,
        id_prefix=place.id_prefix,
        image_prefix=conversion.prefix(arguments),
        min_ratings=min_ratings,
    )
    unused = ", ".join(name for name in available if name not in used) or "none"
    return conversion.job(
        arguments,
        CONVERTER,
        place,
        partial(_rows, place.path, place.name, used),
        reading.convert,
        note=f"layout {layout.name}: {listed(columns)}; columns not used: {unused}",
        layout=layout.name,
        columns=listed(columns),
        min_rating=listed(min_ratings),
    )


def _min_ratings(arguments: argparse.Namespace) -> dict[str, int]:
    form = "column=n with a whole number n"
    found = {}
    for column, number in conversion.pairs(arguments.min_rating, "--min_rating", form).items():
        if not number.isascii() or not number.isdigit():
            raise InputError(f"--min_rating is '{column}={number}', expected {form}")
        found[column] = int(number)
    return found


CONVERTER: Converter = Converter(
    name="parquet",
    version=1,
    help="Parquet files with images from the Hub: FineVision, the_cauldron, LLaVA-OneVision and others",
    description=__doc__,
    example="--input data/FineVision/ai2d --output_jsonl_dir data/FineVision/llava_jsonl "
    "--output_image_dir data/FineVision/images --image_prefix FineVision/images",
    add_arguments=_add_arguments,
    plan=_plan,
)
