"""DVQA: questions about bar charts, with short answers; 2.3 million for training, streamed.

Reads <dataset_folder>/{train,val_easy,val_hard}_qa.json, if present:
  [{"question", "question_id", "answer", "image": "bar_train_00000001.png", ...}]
Writes <split>/<split>_qa.jsonl, one folder per split. Images are expected under DVQA/images/.
"""

# Format: https://github.com/kushalkafle/DVQA_dataset; Kafle et al., "DVQA", arXiv:1801.08163. The fields the README
# calls question_type and bbox_answer are template_id and answer_bbox in the files; neither is read.

from __future__ import annotations

import argparse
from functools import partial

from preprocess.converters.core.canonical import Example, an_object, identifier, image_path, short_answer, text
from preprocess.converters.core.converter import Converter, add_dataset_folder, filling, output_folder
from preprocess.converters.core.job import Job
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord, elements, folder, nothing_found

SPLITS = ("train", "val_easy", "val_hard")


def convert(source: SourceRecord, *, split: str) -> Example:
    """One question."""
    entry = an_object(source.value)
    return Example(
        id=f"dvqa_{split}_{identifier(entry.get('question_id'), 'question_id')}",
        image=f"DVQA/images/{image_path(entry.get('image'), 'image')}",
        human=short_answer(text(entry.get("question"), "question", SourceReason.NO_QUESTION)),
        gpt=text(entry.get("answer"), "answer", SourceReason.NO_ANSWER),
    )


def _plan(arguments: argparse.Namespace) -> list[Job]:
    root = folder(arguments.dataset_folder, "--dataset_folder")
    paths = {split: root / f"{split}_qa.json" for split in SPLITS}
    if not any(path.is_file() for path in paths.values()):
        raise nothing_found("--dataset_folder", root, "train_qa.json, val_easy_qa.json or val_hard_qa.json", "qa")
    return [
        Job(
            output=output_folder(arguments) / split / f"{split}_qa.jsonl",
            inputs=(path,),
            input_root=root,
            settings=CONVERTER.settings(),
            fill=filling(partial(elements, path), partial(convert, split=split)),
        )
        for split, path in paths.items()
        if path.is_file()
    ]


CONVERTER = Converter(
    name="dvqa",
    version=1,
    help="DVQA: questions about bar charts",
    description=__doc__,
    example="--dataset_folder data/DVQA/qa",
    add_arguments=partial(add_dataset_folder, what="the folder with train_qa.json and so on (DVQA's qa/)"),
    plan=_plan,
)
