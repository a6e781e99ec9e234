"""ArxivQA: multiple-choice questions about figures of scientific papers.

Reads a JSONL file:
  {"id", "image": "images/2211.02201_2.jpg", "options": ["A) ...", ...], "question", "label": "B", "rationale"}
Writes <name of the file>.jsonl. A language model wrote the options and labels in various formats: options with or
without letters, as a list or as one string; labels as a letter, a letter with text, a whole option, or in brackets.
They are normalised to options with letters and one letter as the answer. If there is no label, the rationale is the
answer to the same question. Rejected: no label and no rationale; a label beyond the last option or not among them.
Images are expected under ArxivQA/images/.
"""

# Format: https://huggingface.co/datasets/MMInstruction/ArxivQA; Li et al., "Multimodal ArXiv", arXiv:2403.00231.

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from preprocess.converters.arxivqa_options import find_option, read_options
from preprocess.converters.core.canonical import (
    LETTERS,
    Example,
    an_object,
    identifier,
    image_path,
    multiple_choice,
    text,
    with_options,
)
from preprocess.converters.core.converter import Converter, add_output_jsonl_dir, filling
from preprocess.converters.core.job import Job
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord, file, json_lines
from preprocess.rejects import Rejected


def convert(source: SourceRecord) -> Example:
    """One question."""
    entry = an_object(source.value)
    question = text(entry.get("question"), "question", SourceReason.NO_QUESTION)
    label = entry.get("label")
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    label = label.strip() if isinstance(label, str) else label
    if label in (None, "", "[]", []):
        options = read_options(entry.get("options") or [])
        human = with_options(question, options) if options else f"<image>\n{question}"
        answer = text(entry.get("rationale"), "there is no label, and the rationale", SourceReason.NO_ANSWER)
    else:
        if not isinstance(label, str):
            raise Rejected(SourceReason.LABEL_NOT_AN_OPTION, f"label is {label!r}, expected text")
        options = read_options(entry.get("options"))
        if not options:
            raise Rejected(SourceReason.NO_OPTIONS, "the record has a label but no options")
        human = multiple_choice(question, options)
        answer = LETTERS[find_option(label, options)]
    # A file of this set may be named without its folder.
    path = image_path(entry.get("image"), "image")
    return Example(
        id=f"arxivqa_{identifier(entry.get('id'), 'id')}",
        image=f"ArxivQA/{path}" if "/" in path else f"ArxivQA/images/{path}",
        human=human,
        gpt=answer,
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input_file", type=Path, required=True, help="arxivqa.jsonl")
    add_output_jsonl_dir(parser)


def _plan(arguments: argparse.Namespace) -> list[Job]:
    path = file(arguments.input_file, "--input_file")
    return [
        Job(
            output=arguments.output_jsonl_dir / f"{path.stem}.jsonl",
            inputs=(path,),
            input_root=path.parent,
            settings=CONVERTER.settings(),
            fill=filling(partial(json_lines, path), convert),
        )
    ]


CONVERTER = Converter(
    name="arxivqa",
    version=1,
    help="ArxivQA: multiple-choice questions about figures of papers",
    description=__doc__,
    example="--input_file data/ArxivQA/arxivqa.jsonl --output_jsonl_dir data/ArxivQA/llava_jsonl",
    add_arguments=_add_arguments,
    plan=_plan,
)
