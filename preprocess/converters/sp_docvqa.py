"""SP-DocVQA: questions about scanned documents, with short answers (DocVQA, task 1: single page).

Reads <dataset_folder>/{train,val,test}_v1.0[_withQT].json, whichever are there:
  {"data": [{"questionId", "question", "image": "documents/xfbc0228_2.png", "answers": ["March 2, 1951"], ...}]}
or the list under "data" by itself. Of two editions of a split the one with question types is read.
Writes <split>/<split>.jsonl, one folder per split. The first answer is the answer; the test split is
published without answers, and its records are all rejected. Of the path of an image the last part counts, since the
folder differs from download to download: images are expected under DocVQA/sp_docvqa/images/.
"""

# Format: https://rrc.cvc.uab.es/?ch=17 (task 1); Mathew et al., "DocVQA", arXiv:2007.00398.

from __future__ import annotations

import re
from functools import partial

from preprocess.converters import docvqa
from preprocess.converters.core.canonical import (
    Example,
    an_object,
    base_name,
    first_answer,
    identifier,
    short_answer,
    text,
)
from preprocess.converters.core.converter import Converter, add_dataset_folder
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord


def convert(source: SourceRecord, *, split: str) -> Example:
    """One question."""
    entry = an_object(source.value)
    return Example(
        id=f"sp_docvqa_{split}_{identifier(entry.get('questionId'), 'questionId')}",
        image=f"DocVQA/sp_docvqa/images/{base_name(entry.get('image'), 'image')}",
        human=short_answer(text(entry.get("question"), "question", SourceReason.NO_QUESTION)),
        gpt=first_answer(entry.get("answers")),
    )


CONVERTER: Converter = Converter(
    name="sp_docvqa",
    version=1,
    help="SP-DocVQA: questions about scanned documents",
    description=__doc__,
    example="--dataset_folder data/DocVQA/sp_docvqa/qa",
    add_arguments=partial(add_dataset_folder, what="the folder with train_v1.0_withQT.json and so on"),
    plan=lambda arguments: docvqa.plan(
        arguments,
        dataset=CONVERTER,
        pattern=re.compile(r"(train|val|test)_v[0-9.]+(?:_withQT)?\.json"),
        expected="train_v1.0_withQT.json",
        instead=("qa", "spdocvqa_qas", "SP-DocVQA", "SP-DocVQA/qa"),
        convert=convert,
    ),
)
