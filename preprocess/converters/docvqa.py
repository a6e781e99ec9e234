"""The two DocVQA datasets publish a file per split, in two editions, with a list of right answers per question."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from preprocess.converters.core.canonical import Example
from preprocess.converters.core.converter import Converter, filling, output_folder
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.job import Job
from preprocess.converters.core.sources import elements, folder, nothing_found

WITH_QUESTION_TYPES = "_withQT"


def plan(
    arguments: argparse.Namespace,
    *,
    dataset: Converter,
    pattern: re.Pattern[str],
    expected: str,
    instead: tuple[str, ...],
    convert: Callable[..., Example],
) -> list[Job]:
    """One job per split.

    Args:
        arguments: of the command.
        dataset: for the settings.
        pattern: names of files; its first group is the split.
        expected: an example of such a name, for the error.
        instead: sub-folders the user may have meant.
        convert: called with the source record and `split`.
    """
    root = folder(arguments.dataset_folder, "--dataset_folder")
    editions: dict[str, list[Path]] = {}
    for path in sorted(root.glob("*.json"), key=lambda path: path.name):
        if match := pattern.fullmatch(path.name):
            editions.setdefault(match[1], []).append(path)
    if not editions:
        raise nothing_found("--dataset_folder", root, f"{expected} or another split", *instead)
    jobs = []
    for split, paths in sorted(editions.items()):
        # The edition with question types holds the same questions.
        path = max(paths, key=lambda path: (WITH_QUESTION_TYPES in path.name, path.name))
        output = output_folder(arguments) / split / f"{split}.jsonl"
        for other in sorted(output.parent.glob("*.jsonl")):
            if pattern.fullmatch(f"{other.stem}.json"):  # version 0.1 named outputs by the edition
                raise InputError(
                    f"{other} holds the same questions as the {output.name} to be written, and would be read as well; "
                    "remove it, or give another output folder"
                )
        left_out = ", ".join(other.name for other in paths if other != path)
        jobs.append(
            Job(
                # Named by the split, so that another edition of it replaces this one instead of doubling it.
                output=output,
                inputs=(path,),
                input_root=root,
                settings=dataset.settings(),
                fill=filling(partial(elements, path, key="data"), partial(convert, split=split)),
                note=f"{left_out} was not read: the same questions as {path.name}" if left_out else "",
            )
        )
    return jobs
