"""Captions: images with one caption each (COCO, CC3M and others), as conversations for phase 1.

Reads --input in one of three formats:
  coco   COCO's captions_*.json: {"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}
  tsv    caption<TAB>image, no header, as published for CC3M. The second column is the path of the image, or its URL;
         with a URL, --image_name gives the path from the row number. The default is the layout of img2dataset
         (output_format=files, 10,000 images per folder); the LLaVA authors use 'GCC_train_{row:09d}.jpg' for CC3M.
  jsonl  {"image", "caption", "id"?} in each line
Writes <name of the file>.jsonl. The caption is the answer to one of LLaVA's eleven instructions for a brief
description. The instruction, and whether the image comes before or after it, are chosen by --seed and the id of the
record. Rejected: no caption, no image, a path that leaves the prefix.
"""

# Formats: https://cocodataset.org/#format-data, https://ai.google.com/research/ConceptualCaptions/download. The
# position of the image before or after the instruction, separated by a newline, follows Liu et al., "Visual Instruction
# Tuning", arXiv:2304.08485, and its data LLaVA-Pretrain.

from __future__ import annotations

import argparse
import string
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from preprocess.converters.core.brief_instructions import BRIEF_DESCRIPTION, choose
from preprocess.converters.core.canonical import (
    IMAGE_TOKEN,
    Example,
    an_object,
    identifier,
    image_path,
    image_prefix,
    text,
)
from preprocess.converters.core.converter import Converter, add_output_jsonl_dir, add_seed, filling
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.job import Job
from preprocess.converters.core.json_array import read_array
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord, elements, file, json_lines, tab_separated
from preprocess.image_files import is_inside
from preprocess.rejects import Rejected

# img2dataset puts 10,000 samples into a folder and numbers folders and samples.
IMG2DATASET_NAME = "{shard:05d}/{row:09d}.jpg"
ROWS_PER_SHARD = 10_000


def pair(record_id: str, image: str, caption: object, *, prefix: str, seed: int) -> Example:
    """The conversation about one image and its caption."""
    instruction = choose(BRIEF_DESCRIPTION, seed=seed, record_id=record_id, purpose="instruction")
    image_first = choose((True, False), seed=seed, record_id=record_id, purpose="place of the image")
    return Example(
        id=record_id,
        image=f"{prefix}/{image}",
        human=f"{IMAGE_TOKEN}\n{instruction}" if image_first else f"{instruction}\n{IMAGE_TOKEN}",
        gpt=text(caption, "caption", SourceReason.NO_CAPTION),
    )


def convert_coco(source: SourceRecord, *, prefix: str, seed: int) -> Example:
    """One annotation; `value` is (annotation, file name of its image or None)."""
    annotation, file_name = source.value
    entry = an_object(annotation)
    if file_name is None:
        raise Rejected(SourceReason.NO_IMAGE, f"no image has the id {entry.get('image_id')!r}")
    record_id = f"coco_{identifier(entry.get('id'), 'id')}"
    return pair(record_id, image_path(file_name, "file_name"), entry.get("caption"), prefix=prefix, seed=seed)


def convert_row(source: SourceRecord, *, stem: str, image_name: str, prefix: str, seed: int) -> Example:
    """One row of a TSV file."""
    columns = source.value
    if len(columns) != 2:
        raise Rejected(SourceReason.WRONG_COLUMNS, f"found {len(columns)} columns, expected caption and image")
    caption, image = columns
    row = source.number - 1
    if "://" in image:
        image = image_name.format(row=row, shard=row // ROWS_PER_SHARD)
    return pair(f"{stem}_{row}", image_path(image.strip(), "the image"), caption, prefix=prefix, seed=seed)


def convert_line(source: SourceRecord, *, stem: str, prefix: str, seed: int) -> Example:
    """One line of a JSONL file."""
    entry = an_object(source.value)
    record_id = identifier(entry["id"], "id") if entry.get("id") is not None else f"{stem}_{source.number}"
    return pair(record_id, image_path(entry.get("image"), "image"), entry.get("caption"), prefix=prefix, seed=seed)


def coco_annotations(path: Path) -> Iterator[SourceRecord]:
    """The annotations of a COCO file with the names of their images; both lists are streamed, one after the other."""
    names: dict[Any, Any] = {}
    for source in elements(path, key="images", bare=False):
        if isinstance(source.value, dict) and isinstance(source.value.get("id"), (int, str)):
            names[source.value["id"]] = source.value.get("file_name")
    for batch in read_array(path, key="annotations", bare=False):
        for number, value in enumerate(batch.values, batch.first):
            image_id = value.get("image_id") if isinstance(value, dict) else None
            known = names.get(image_id) if isinstance(image_id, (int, str)) else None
            found = value if isinstance(value, Rejected) else (value, known)
            yield SourceRecord(path.name, f"element {number}", number, found)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", type=Path, required=True, help="file with the captions")
    parser.add_argument("--format", choices=("coco", "tsv", "jsonl"), required=True, help="format of that file")
    parser.add_argument(
        "--image_prefix",
        required=True,
        help="path of the images relative to the parent folder of all images, such as coco/train2017",
    )
    add_output_jsonl_dir(parser)
    parser.add_argument(
        "--image_name",
        help="tsv with URLs: the path of the image of a row, with {row} from 0 and {shard} = row // 10000 "
        f"(default: {IMG2DATASET_NAME})",
    )
    add_seed(parser)


def _plan(arguments: argparse.Namespace) -> list[Job]:
    path = file(arguments.input, "--input")
    if arguments.image_name is not None and arguments.format != "tsv":
        raise InputError(f"--image_name requires --format tsv, but the format is {arguments.format}; remove it")
    shared = {"prefix": image_prefix(arguments.image_prefix), "seed": arguments.seed}
    image_name = _checked_image_name(arguments.image_name or IMG2DATASET_NAME)
    readers: dict[str, tuple[Callable[[Path], Iterator[SourceRecord]], Callable[[SourceRecord], Example]]] = {
        "coco": (coco_annotations, partial(convert_coco, **shared)),
        "tsv": (tab_separated, partial(convert_row, stem=path.stem, image_name=image_name, **shared)),
        "jsonl": (json_lines, partial(convert_line, stem=path.stem, **shared)),
    }
    read, convert = readers[arguments.format]
    return [
        Job(
            output=arguments.output_jsonl_dir / f"{path.stem}.jsonl",
            inputs=(path,),
            input_root=path.parent,
            settings=CONVERTER.settings(
                format=arguments.format, image_prefix=shared["prefix"], seed=arguments.seed, image_name=image_name
            ),
            fill=filling(partial(read, path), convert),
        )
    ]


def _checked_image_name(template: str) -> str:
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        example = template.format(row=0, shard=0)
    except (ValueError, KeyError, IndexError, AttributeError):
        fields, example = {"?"}, template
    if "row" not in fields or not fields <= {"row", "shard"} or not is_inside(example):
        raise InputError(f"--image_name is {template!r}, expected a relative path such as {IMG2DATASET_NAME}")
    return template


CONVERTER = Converter(
    name="captions",
    version=1,
    help="images with captions (COCO, CC3M, ...) as conversations for phase 1",
    description=__doc__,
    example="--input data/coco/annotations/captions_train2017.json --format coco "
    "--image_prefix coco/train2017 --output_jsonl_dir data/coco/llava_jsonl",
    add_arguments=_add_arguments,
    plan=_plan,
)
