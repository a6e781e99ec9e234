"""SynthDoG-EN: rendered pages of text, to be transcribed.

Reads <input_dir>/train-000NN-of-00084-<hash>.parquet, a row per page with
  image: {"bytes", "path"}, ground_truth: '{"gt_parse": {"text_sequence": "..."}}'
--parquet_range A B selects the files with A <= NN < B.
Writes <name of the Parquet file>.jsonl and the images, as <output_image_dir>/train-000NN/<row>.jpg, with their original
bytes. The text of the page is the answer to one of LLaVA's eleven instructions for a brief description, chosen by
--seed and the id of the record. Rejected: no text, an image that cannot be decoded.
Needs pyarrow: pip install 'llava-hdf5[parquet]'
"""

# Format: https://huggingface.co/datasets/naver-clova-ix/synthdog-en; Kim et al., "OCR-free Document Understanding
# Transformer", arXiv:2111.15664.

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import orjson

from preprocess.converters.core import parquet
from preprocess.converters.core.brief_instructions import BRIEF_DESCRIPTION, choose
from preprocess.converters.core.canonical import IMAGE_TOKEN, Example, ImageFile, an_object, text
from preprocess.converters.core.converter import Converter
from preprocess.converters.core.job import Job
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord
from preprocess.rejects import Rejected

_NAME = re.compile(r"train-([0-9]{5})-of-[0-9]{5}.*\.parquet")
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}


def convert(source: SourceRecord, *, shard: str, image_prefix: str, seed: int) -> Example:
    """One page."""
    row = an_object(source.value)
    answer = text(_text_sequence(row.get("ground_truth")), "gt_parse.text_sequence", SourceReason.NO_ANSWER)
    data = (row.get("image") or {}).get("bytes")
    if not data:
        raise Rejected(SourceReason.NO_IMAGE, "the image has no bytes")
    suffix = next((name for start, name in _SUFFIXES.items() if data.startswith(start)), ".img")
    path = f"{shard}/{source.number:06d}{suffix}"
    record_id = f"synthdog_en_{shard}_{source.number:06d}"
    instruction = choose(BRIEF_DESCRIPTION, seed=seed, record_id=record_id, purpose="instruction")
    return Example(
        id=record_id,
        image=f"{image_prefix}/{path}",
        human=f"{IMAGE_TOKEN}\n{instruction}",
        gpt=answer,
        image_file=ImageFile(path, data),
    )


def pages(path: Path) -> Iterator[SourceRecord]:
    """The rows of a file."""
    for number, row in parquet.rows(path, ["image", "ground_truth"]):
        yield SourceRecord(path.name, f"row {number}", number, row)


def _text_sequence(ground_truth: object) -> object:
    if not isinstance(ground_truth, str):
        raise Rejected(SourceReason.NO_ANSWER, "ground_truth is missing")
    try:
        document = orjson.loads(ground_truth)
    except orjson.JSONDecodeError as error:
        raise Rejected(SourceReason.NOT_JSON, f"ground_truth: {error}") from None
    parsed = document.get("gt_parse") if isinstance(document, dict) else None
    return parsed.get("text_sequence") if isinstance(parsed, dict) else None


def _plan(arguments: argparse.Namespace) -> list[Job]:
    prefix = parquet.prefix(arguments)
    jobs = []
    for path in parquet.files_in_range(arguments, _NAME, "train-000NN-of-00084-<hash>.parquet"):
        shard = path.name[: len("train-00000")]
        convert_page = partial(convert, shard=shard, image_prefix=prefix, seed=arguments.seed)
        jobs.append(parquet.job(arguments, path, CONVERTER, partial(pages, path), convert_page))
    return jobs


CONVERTER = Converter(
    name="synthdog_en",
    version=1,
    help="SynthDoG-EN: rendered pages of text, from Parquet",
    description=__doc__,
    example="--input_dir data/synthdog-en/data --output_jsonl_dir data/synthdog-en/llava_jsonl "
    "--output_image_dir data/synthdog-en/images --image_prefix synthdog-en/images --parquet_range 3 11",
    add_arguments=partial(
        parquet.add_arguments, numbered="the NN of train-000NN-of-00084-*.parquet", image_prefix="synthdog-en/images"
    ),
    plan=_plan,
)
