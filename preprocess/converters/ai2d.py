"""AI2D: multiple-choice questions about diagrams, one JSON file per image.

Reads <question_dir>/<image>.png.json:
  {"imageName": "2185.png", "questions": {<question>: {"abcLabel": bool, "answerTexts": [..], "correctAnswer": 0,
  "questionId": "2185.png-0"}}}
Writes ai2d.jsonl: one record per question, files sorted by name, questions in the order of the file.
The options are listed with letters and the answer is the letter, even if the options are themselves letters in the
diagram (abcLabel). Images are expected under ai2d/images/ in the parent folder of all images.

The folder includes AI2D's test questions: to evaluate on them, first remove the files of the ids in ai2d_test_ids.csv.
"""

# Format: https://allenai.org/data/diagrams; Kembhavi et al., "A Diagram Is Worth A Dozen Images", arXiv:1603.07396.

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from preprocess.converters.core.canonical import (
    LETTERS,
    Example,
    an_object,
    identifier,
    image_path,
    multiple_choice,
    text,
)
from preprocess.converters.core.converter import Converter, add_output_jsonl_dir, filling
from preprocess.converters.core.job import Job
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord, folder, nothing_found
from preprocess.rejects import Rejected


def convert(source: SourceRecord) -> Example:
    """Convert one question; `value` is (name of the image, question, its entry in the file)."""
    image_name, question, entry = source.value
    entry = an_object(entry)
    options = entry.get("answerTexts")
    if not isinstance(options, list) or not options:
        raise Rejected(SourceReason.NO_OPTIONS, "answerTexts is missing or empty, expected a list of options")
    correct = entry.get("correctAnswer")
    if not isinstance(correct, int) or isinstance(correct, bool):
        raise Rejected(SourceReason.NO_ANSWER, f"correctAnswer is {correct!r}, expected the number of an option")
    if not 0 <= correct < len(options):
        raise Rejected(
            SourceReason.LABEL_PAST_OPTIONS, f"correctAnswer is {correct}, but there are only {len(options)} options"
        )
    human = multiple_choice(
        text(question, "the question", SourceReason.NO_QUESTION),
        [text(option, "an option", SourceReason.NO_OPTIONS) for option in options],
    )
    return Example(
        id=f"ai2d_{identifier(entry.get('questionId'), 'questionId')}",
        image=f"ai2d/images/{image_path(image_name, 'imageName')}",
        human=human,
        gpt=LETTERS[correct],
    )


def questions(files: list[Path]) -> Iterator[SourceRecord]:
    """The questions of all files; a file in another format is one reject."""
    for path in files:
        try:
            document: Any = orjson.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
        except orjson.JSONDecodeError as error:
            yield SourceRecord(path.name, "file", 0, Rejected(SourceReason.NOT_JSON, str(error)))
            continue
        entries = document.get("questions") if isinstance(document, dict) else None
        if not isinstance(entries, dict):
            rejected = Rejected(SourceReason.NOT_AN_OBJECT, 'found no "questions", expected an object with this key')
            yield SourceRecord(path.name, "file", 0, rejected)
            continue
        for number, (question, entry) in enumerate(entries.items()):
            yield SourceRecord(path.name, f"question {number}", number, (document.get("imageName"), question, entry))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--question_dir", type=Path, required=True, help="the folder questions/ of AI2D")
    add_output_jsonl_dir(parser)


def _plan(arguments: argparse.Namespace) -> list[Job]:
    root = folder(arguments.question_dir, "--question_dir")
    # Only files named <image>.<suffix>.json contain questions, unlike categories.json in the parent folder.
    files = sorted(
        (path for path in root.glob("*.*.json") if not path.name.startswith(".")), key=lambda path: path.name
    )
    if not files:
        raise nothing_found("--question_dir", root, "files called <image>.png.json", "questions", "ai2d/questions")
    return [
        Job(
            output=arguments.output_jsonl_dir / "ai2d.jsonl",
            inputs=tuple(files),
            input_root=root,
            settings=CONVERTER.settings(),
            fill=filling(partial(questions, files), convert),
        )
    ]


CONVERTER = Converter(
    name="ai2d",
    version=1,
    help="AI2D: multiple-choice questions about diagrams",
    description=__doc__,
    example="--question_dir data/ai2d/questions --output_jsonl_dir data/ai2d/ai2d_llava_jsonl",
    add_arguments=_add_arguments,
    plan=_plan,
)
