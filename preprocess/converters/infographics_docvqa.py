"""InfographicsVQA: questions about infographics, with short answers (DocVQA, task 3).

Reads <dataset_folder>/infographicsVQA_{train,val,test}_v1.0[_withQT].json, whichever are there:
  {"data": [{"questionId", "question", "image_local_name": "37313.jpeg", "answers": ["pinterest"], ...}]}
or the list under "data" by itself. Of two editions of a split the one with question types is read.
Writes <split>/<split>.jsonl, one folder per split. The first answer is the answer; the test split is
published without answers, and its records are all rejected. Images are expected under DocVQA/Infographicsvqa/images/.
"""

# Format: https://rrc.cvc.uab.es/?ch=17 (task 3); Mathew et al., "InfographicVQA", arXiv:2104.12756.

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
        id=f"infographicsvqa_{split}_{identifier(entry.get('questionId'), 'questionId')}",
        image=f"DocVQA/Infographicsvqa/images/{base_name(entry.get('image_local_name'), 'image_local_name')}",
        human=short_answer(text(entry.get("question"), "question", SourceReason.NO_QUESTION)),
        gpt=first_answer(entry.get("answers")),
    )


CONVERTER: Converter = Converter(
    name="infographics_docvqa",
    version=1,
    help="InfographicsVQA: questions about infographics",
    description=__doc__,
    example="--dataset_folder data/DocVQA/Infographicsvqa/qa",
    add_arguments=partial(add_dataset_folder, what="the folder with infographicsVQA_train_v1.0.json and so on"),
    plan=lambda arguments: docvqa.plan(
        arguments,
        dataset=CONVERTER,
        pattern=re.compile(r"infographicsVQA_(train|val|test)_v[0-9.]+(?:_withQT)?\.json"),
        expected="infographicsVQA_train_v1.0.json",
        instead=("qa", "infographicsvqa_qas", "Infographicsvqa", "Infographicsvqa/qa"),
        convert=convert,
    ),
)
