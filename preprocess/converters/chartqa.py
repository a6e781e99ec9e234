"""ChartQA: questions about charts, with short answers.

Reads <dataset_folder>/{train,val,test}/{split}_{human,augmented}.json, if present:
  [{"imgname": "04960398003706.png", "query": "Which country ...?", "label": "Georgia"}]
Writes <split>/<split>_<kind>.jsonl, one folder per split, so that training can use only train/.
The label is the answer unchanged, even if it looks like a list ("[2017, 2023]"). The file has no ids; a record id
contains its position, such as chartqa_train_human_12. Images are expected under ChartQA_Dataset/<split>/png/.
"""

# Format: https://github.com/vis-nlp/ChartQA and https://huggingface.co/datasets/ahmed-masry/ChartQA;
# Masry et al., "ChartQA", arXiv:2203.10244.

from __future__ import annotations

import argparse
from functools import partial

from preprocess.converters.core.canonical import Example, an_object, image_path, short_answer, text
from preprocess.converters.core.converter import Converter, add_dataset_folder, filling, output_folder
from preprocess.converters.core.job import Job
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord, elements, folder, nothing_found

SPLITS = ("train", "val", "test")
KINDS = ("human", "augmented")


def convert(source: SourceRecord, *, split: str, kind: str) -> Example:
    """One question of one of the six files."""
    entry = an_object(source.value)
    return Example(
        id=f"chartqa_{split}_{kind}_{source.number}",
        image=f"ChartQA_Dataset/{split}/png/{image_path(entry.get('imgname'), 'imgname')}",
        human=short_answer(text(entry.get("query"), "query", SourceReason.NO_QUESTION)),
        gpt=text(entry.get("label"), "label", SourceReason.NO_ANSWER),
    )


def _plan(arguments: argparse.Namespace) -> list[Job]:
    root = folder(arguments.dataset_folder, "--dataset_folder")
    jobs = []
    for split in SPLITS:
        for kind in KINDS:
            path = root / split / f"{split}_{kind}.json"
            if path.is_file():
                jobs.append(
                    Job(
                        output=output_folder(arguments) / split / f"{split}_{kind}.jsonl",
                        inputs=(path,),
                        input_root=root,
                        settings=CONVERTER.settings(),
                        fill=filling(partial(elements, path), partial(convert, split=split, kind=kind)),
                    )
                )
    if not jobs:
        raise nothing_found(
            "--dataset_folder", root, "train/train_human.json or another split of ChartQA", "ChartQA Dataset"
        )
    return jobs


CONVERTER = Converter(
    name="chartqa",
    version=1,
    help="ChartQA: questions about charts",
    description=__doc__,
    example="--dataset_folder data/ChartQA_Dataset",
    add_arguments=partial(
        add_dataset_folder, what="the folder with train/, val/ and test/ (in ChartQA's zip: 'ChartQA Dataset')"
    ),
    plan=_plan,
)
