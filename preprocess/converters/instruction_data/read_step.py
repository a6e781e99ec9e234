"""Reads the requests in --requests_dir and the results: output and error files of a batch service, or of vLLM's
run_batch. Writes llava_jsonl/instructions.jsonl into --output_dir; read.rejects.jsonl, every result that is no record,
with custom_id and reason, and every request without a result; retry.jsonl, the requests that have no record, ready
to be sent again; report.json, rounds and lengths of each kind; and read.receipt.
Of several answers to a request the first that can be used is written. read = written + rejected."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from preprocess.converters.core.canonical import image_prefix
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.receipt import Counts
from preprocess.converters.core.sources import file, folder, nothing_found
from preprocess.converters.instruction_data import layout
from preprocess.converters.instruction_data.file_set import FileSet, LineFile
from preprocess.converters.instruction_data.kinds import Kind
from preprocess.converters.instruction_data.prompts import load_prompt, prompt_files
from preprocess.converters.instruction_data.read import ReadOutcome, ReadPlan, write_records

HELP = "results → conversations in LLaVA's JSONL"
VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this step."""
    parser.add_argument("--requests_dir", type=Path, required=True, help="folder that `requests` wrote")
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="files of results, in order")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the files; made if missing")
    parser.add_argument(
        "--image_prefix", required=True, help="path of the images as seen from the parent folder: coco/train2017"
    )
    parser.add_argument("--prompts", type=Path, help="folder with your own detail.yaml, whose questions are drawn")
    parser.add_argument("--seed", type=int, default=0, help="draws questions and the place of the image (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="write the files again that are there already")


def run(arguments: argparse.Namespace) -> None:
    """Write the records and say what became of every result.

    Raises:
        InputError: arguments or inputs that cannot be.
    """
    asked = folder(arguments.requests_dir, "--requests_dir")
    prompt = load_prompt(prompt_files(arguments.prompts)[Kind.DETAIL], Kind.DETAIL)
    plan = ReadPlan(
        requests=tuple(sorted(asked.glob(layout.REQUESTS))),
        images=asked / layout.IMAGES,
        results=tuple(file(path, "--results") for path in arguments.results),
        questions=prompt.questions,
        image_prefix=image_prefix(arguments.image_prefix),
        seed=arguments.seed,
    )
    if asked_again := {path.resolve() for path in plan.results} & {path.resolve() for path in plan.requests}:
        raise InputError(f"--results has {asked_again.pop()}, which holds requests; give the files of their answers")
    if not plan.requests or not plan.images.is_file():
        raise nothing_found("--requests_dir", asked, f"{layout.REQUESTS} with {layout.IMAGES}")
    files = FileSet(
        folder=arguments.output_dir,
        step="read",
        patterns=(layout.RECORDS, layout.READ_REJECTS, layout.RETRY, layout.REPORT),
        settings={
            "step_version": VERSION,
            "image_prefix": plan.image_prefix,
            "seed": plan.seed,
            "prompt_detail": prompt.digest(),
        },
        inputs=(*plan.requests, plan.images, *plan.results),
    )
    if {path.resolve() for path in files.existing()} & {path.resolve() for path in files.inputs}:
        raise InputError("a file of --results is one that this step writes; give files of results, or another folder")
    if not arguments.overwrite and (counts := files.finished()) is not None:
        print(f"finished earlier, nothing to do: {_counted(counts, arguments.output_dir)}")
        return
    outcome: list[ReadOutcome] = []

    def fill(open_file: Callable[[str], LineFile]) -> Counts:
        outcome.append(write_records(plan, open_file))
        return outcome[0].counts

    files.write(fill)
    _report(outcome[0], arguments.output_dir)


def _report(outcome: ReadOutcome, written_to: Path) -> None:
    print(f"wrote {_counted(outcome.counts, written_to)}")
    if outcome.counts.rejected:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in outcome.counts.rejected.items())
        print(f"  rejected: {reasons}; listed in {written_to / layout.READ_REJECTS}")
    for kind, report in outcome.kinds.items():
        if report.requests:
            print(f"  {report.sentence(kind)}")
    if outcome.retries:
        print(f"  requests without a record: {outcome.retries:,}; {written_to / layout.RETRY} holds them")


def _counted(counts: Counts, written_to: Path) -> str:
    rejected = sum(counts.rejected.values())
    return f"{written_to}: {counts.read:,} answers read = {counts.written:,} written + {rejected:,} rejected"
