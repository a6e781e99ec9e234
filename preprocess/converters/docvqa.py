"""The two DocVQA datasets: questions about scanned documents (SP-DocVQA) and about infographics (InfographicsVQA).

Both have one file per split, in two editions, with a list of correct answers for each question.
"""

# Format: https://rrc.cvc.uab.es/?ch=17 (tasks 1 and 3); Mathew et al., "DocVQA", arXiv:2007.00398, and
# "InfographicVQA", arXiv:2104.12756.

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from preprocess.converters.core.canonical import (
    Example,
    an_object,
    base_name,
    first_answer,
    identifier,
    short_answer,
    text,
)
from preprocess.converters.core.converter import Converter, add_dataset_folder, filling, output_folder
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.job import Job
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord, elements, folder, nothing_found

WITH_QUESTION_TYPES = "_withQT"

_SP_DESCRIPTION = """SP-DocVQA: questions about scanned documents, with short answers (DocVQA, task 1: single page).

Reads <dataset_folder>/{train,val,test}_v1.0[_withQT].json, if present:
  {"data": [{"questionId", "question", "image": "documents/xfbc0228_2.png", "answers": ["March 2, 1951"], ...}]}
or only the list under "data". Of two editions of a split, the one with question types is read.
Writes <split>/<split>.jsonl, one folder per split. The first answer is used; the test split is published without
answers, so its records are all rejected. Only the file name of an image path is used, since the folders differ
between downloads: images are expected under DocVQA/sp_docvqa/images/.
"""

_INFOGRAPHICS_DESCRIPTION = """InfographicsVQA: questions about infographics, with short answers (DocVQA, task 3).

Reads <dataset_folder>/infographicsVQA_{train,val,test}_v1.0[_withQT].json, if present:
  {"data": [{"questionId", "question", "image_local_name": "37313.jpeg", "answers": ["pinterest"], ...}]}
or only the list under "data". Of two editions of a split, the one with question types is read.
Writes <split>/<split>.jsonl, one folder per split. The first answer is used; the test split is published without
answers, so its records are all rejected. Images are expected under DocVQA/Infographicsvqa/images/.
"""


def _convert(source: SourceRecord, *, split: str, id_prefix: str, image_key: str, image_folder: str) -> Example:
    """One question."""
    entry = an_object(source.value)
    return Example(
        id=f"{id_prefix}_{split}_{identifier(entry.get('questionId'), 'questionId')}",
        image=f"DocVQA/{image_folder}/images/{base_name(entry.get(image_key), image_key)}",
        human=short_answer(text(entry.get("question"), "question", SourceReason.NO_QUESTION)),
        gpt=first_answer(entry.get("answers")),
    )


def _plan(
    arguments: argparse.Namespace,
    *,
    prefix: str,
    subfolders: tuple[str, ...],
    converter: Converter,
    convert: Callable[..., Example],
) -> list[Job]:
    """One job per split.

    Args:
        arguments: the arguments of the command.
        prefix: the part of the file names before the split.
        subfolders: sub-folders that are suggested if no files are found.
        converter: provides the settings.
        convert: called with the source record and `split`.
    """
    root = folder(arguments.dataset_folder, "--dataset_folder")
    pattern = re.compile(re.escape(prefix) + r"(train|val|test)_v[0-9.]+(?:_withQT)?\.json")
    editions: dict[str, list[Path]] = {}
    for path in sorted(root.glob("*.json"), key=lambda path: path.name):
        if match := pattern.fullmatch(path.name):
            editions.setdefault(match[1], []).append(path)
    if not editions:
        raise nothing_found("--dataset_folder", root, f"{prefix}train_v1.0_withQT.json or another split", *subfolders)
    jobs = []
    for split, paths in sorted(editions.items()):
        # The edition with question types contains the same questions.
        path = max(paths, key=lambda path: (WITH_QUESTION_TYPES in path.name, path.name))
        output = output_folder(arguments) / split / f"{split}.jsonl"
        for other in sorted(output.parent.glob("*.jsonl")):
            if pattern.fullmatch(f"{other.stem}.json"):  # version 0.1 named outputs by the edition
                raise InputError(
                    f"{other} has the same questions as the new {output.name} and would be read in addition to it; "
                    "remove it, or give another output folder"
                )
        unused = ", ".join(other.name for other in paths if other != path)
        jobs.append(
            Job(
                # Named by the split, so that another edition replaces it instead of adding the same questions again.
                output=output,
                inputs=(path,),
                input_root=root,
                settings=converter.settings(),
                fill=filling(partial(elements, path, key="data"), partial(convert, split=split)),
                note=f"not used: {unused}, which has the same questions as {path.name}" if unused else "",
            )
        )
    return jobs


SP_DOCVQA: Converter = Converter(
    name="sp_docvqa",
    version=1,
    help="SP-DocVQA: questions about scanned documents",
    description=_SP_DESCRIPTION,
    example="--dataset_folder data/DocVQA/sp_docvqa/qa",
    add_arguments=partial(add_dataset_folder, what="the folder with train_v1.0_withQT.json and so on"),
    plan=lambda arguments: _plan(
        arguments,
        prefix="",
        subfolders=("qa", "spdocvqa_qas", "SP-DocVQA", "SP-DocVQA/qa"),
        converter=SP_DOCVQA,
        convert=partial(_convert, id_prefix="sp_docvqa", image_key="image", image_folder="sp_docvqa"),
    ),
)

INFOGRAPHICS_DOCVQA: Converter = Converter(
    name="infographics_docvqa",
    version=1,
    help="InfographicsVQA: questions about infographics",
    description=_INFOGRAPHICS_DESCRIPTION,
    example="--dataset_folder data/DocVQA/Infographicsvqa/qa",
    add_arguments=partial(add_dataset_folder, what="the folder with infographicsVQA_train_v1.0.json and so on"),
    plan=lambda arguments: _plan(
        arguments,
        prefix="infographicsVQA_",
        subfolders=("qa", "infographicsvqa_qas", "Infographicsvqa", "Infographicsvqa/qa"),
        converter=INFOGRAPHICS_DOCVQA,
        convert=partial(
            _convert, id_prefix="infographicsvqa", image_key="image_local_name", image_folder="Infographicsvqa"
        ),
    ),
)
