"""ArxivCap: figures of scientific papers with their captions.

Reads <input_dir>/arXiv_src_YYMM_NNN.parquet, a row per paper with
  caption_images: [{"caption", "cil_pairs": [{"sub_caption", "image_file": "<folder>/<name>.jpg",
  "image": {"bytes"}, "image_ocr"}]}]
--parquet_range A B selects the files with A <= NNN < B.
Writes <name of the Parquet file>.jsonl and the images, as <output_image_dir>/<folder>/<name>.jpg, with their original
bytes. Figures with one image and a caption are used: the caption is the answer to one of LLaVA's eleven instructions
for a brief description, chosen by --seed and the id of the record. Rejected: several images in a figure, no caption, an
image that cannot be decoded or whose path leaves its folder.
Needs pyarrow: pip install 'llava-hdf5[parquet]'
"""

# Format: https://huggingface.co/datasets/MMInstruction/ArxivCap; Li et al., "Multimodal ArXiv", arXiv:2403.00231, whose
# task "single-figure captioning" this is.

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from preprocess.converters.core import parquet
from preprocess.converters.core.brief_instructions import BRIEF_DESCRIPTION, choose
from preprocess.converters.core.canonical import IMAGE_TOKEN, Example, ImageFile, an_object, image_path, text
from preprocess.converters.core.converter import Converter
from preprocess.converters.core.job import Job
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord
from preprocess.rejects import Rejected

_NAME = re.compile(r"arXiv_src_[0-9]{4}_([0-9]{3,})\.parquet")


def convert(source: SourceRecord, *, image_prefix: str, seed: int) -> Example:
    """One figure."""
    figure = an_object(source.value)
    pairs = figure.get("cil_pairs") or []
    if len(pairs) > 1:
        raise Rejected(SourceReason.SEVERAL_PAIRS, f"the figure has {len(pairs)} images, expected one")
    caption = text(figure.get("caption"), "caption", SourceReason.NO_CAPTION)
    if not pairs:
        raise Rejected(SourceReason.NO_IMAGE, "the figure has no image")
    data = (pairs[0].get("image") or {}).get("bytes")
    if not data:
        raise Rejected(SourceReason.NO_IMAGE, "the image has no bytes")
    path = image_path(pairs[0].get("image_file"), "image_file")
    record_id = f"arxivcap_{path.rpartition('.')[0] or path}"
    instruction = choose(BRIEF_DESCRIPTION, seed=seed, record_id=record_id, purpose="instruction")
    return Example(
        id=record_id,
        image=f"{image_prefix}/{path}",
        human=f"{IMAGE_TOKEN}\n{instruction}",
        gpt=caption,
        image_file=ImageFile(path, data),
    )


def figures(path: Path) -> Iterator[SourceRecord]:
    """The figures of all papers in a file."""
    for number, row in parquet.rows(path, ["caption_images"]):
        if isinstance(row, Rejected):
            yield SourceRecord(path.name, f"row {number}", number, row)
            continue
        for place, figure in enumerate(row["caption_images"] or []):
            yield SourceRecord(path.name, f"row {number}, figure {place}", number, figure)


def _plan(arguments: argparse.Namespace) -> list[Job]:
    convert_figure = partial(convert, image_prefix=parquet.prefix(arguments), seed=arguments.seed)
    return [
        parquet.job(arguments, path, CONVERTER, partial(figures, path), convert_figure)
        for path in parquet.files_in_range(arguments, _NAME, "arXiv_src_YYMM_NNN.parquet")
    ]


CONVERTER = Converter(
    name="arxivcap",
    version=1,
    help="ArxivCap: figures of papers with captions, from Parquet",
    description=__doc__,
    example="--input_dir data/ArxivCap/data --output_jsonl_dir data/ArxivCap/llava_jsonl "
    "--output_image_dir data/ArxivCap/images --image_prefix ArxivCap/images --parquet_range 3 11",
    add_arguments=partial(
        parquet.add_arguments, numbered="the NNN of arXiv_src_YYMM_NNN.parquet", image_prefix="ArxivCap/images"
    ),
    plan=_plan,
)
