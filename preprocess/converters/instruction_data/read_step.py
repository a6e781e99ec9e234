"""Converts results to conversations.

Reads the requests in --requests_dir, and results of `send`, of a batch service (output and error files), or of vLLM's
run_batch.
Writes to --output_dir:
  llava_jsonl/instructions.jsonl  the conversations
  read.rejects.jsonl              every result that was rejected, and every request without a result, with custom_id
                                  and reason
  retry.jsonl                     the requests without a conversation, to be sent again
  report.json                     rounds and lengths of each kind
  read.receipt                    the inputs and arguments
If a request has several answers, the first valid one is written. read = written + rejected."""

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

HELP = "convert results to JSONL conversations"
VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of this step."""
    parser.add_argument("--requests_dir", type=Path, required=True, help="output folder of `requests`")
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="files of results, in reading order")
    parser.add_argument("--output_dir", type=Path, required=True, help="output folder; created if missing")
    parser.add_argument(
        "--image_prefix",
        required=True,
        help="path of the images relative to the parent folder of all images, such as coco/train2017",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        help="the folder given to `requests`; the questions for descriptions are chosen from its detail.yaml",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the choice of question and position of the image (default: 0)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def run(arguments: argparse.Namespace) -> None:
    """Write the records and print the counts.

    Raises:
        InputError: invalid arguments or inputs.
    """
    requests_dir = folder(arguments.requests_dir, "--requests_dir")
    prompt = load_prompt(prompt_files(arguments.prompts)[Kind.DETAIL], Kind.DETAIL)
    plan = ReadPlan(
        requests=tuple(sorted(requests_dir.glob(layout.REQUESTS))),
        images=requests_dir / layout.IMAGES,
        results=tuple(file(path, "--results") for path in arguments.results),
        questions=prompt.questions,
        image_prefix=image_prefix(arguments.image_prefix),
        seed=arguments.seed,
    )
    if mistaken := {path.resolve() for path in plan.results} & {path.resolve() for path in plan.requests}:
        raise InputError(f"--results is {mistaken.pop()}, which contains requests; give the files with their results")
    if not plan.requests or not plan.images.is_file():
        raise nothing_found("--requests_dir", requests_dir, f"{layout.REQUESTS} with {layout.IMAGES}")
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
        raise InputError(
            f"--results contains a file that this step would write to {arguments.output_dir}; give files of results, "
            "or another --output_dir"
        )
    if not arguments.overwrite and (counts := files.finished()) is not None:
        print(f"finished earlier, nothing to do: {_counted(counts, arguments.output_dir)}")
        return
    outcome: list[ReadOutcome] = []

    def fill(open_file: Callable[[str], LineFile]) -> Counts:
        outcome.append(write_records(plan, open_file))
        return outcome[0].counts

    files.write(fill)
    _report(outcome[0], arguments.output_dir)


def _report(outcome: ReadOutcome, output_dir: Path) -> None:
    print(f"wrote {_counted(outcome.counts, output_dir)}")
    if outcome.counts.rejected:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in outcome.counts.rejected.items())
        print(f"  rejected: {reasons}; listed in {output_dir / layout.READ_REJECTS}")
    for kind, report in outcome.kinds.items():
        if report.requests:
            print(f"  {report.summary(kind)}")
    if outcome.retries:
        print(f"  requests without a record: {outcome.retries:,}; to send them again, use {output_dir / layout.RETRY}")


def _counted(counts: Counts, output_dir: Path) -> str:
    rejected = sum(counts.rejected.values())
    return f"{output_dir}: {counts.read:,} answers read = {counts.written:,} written + {rejected:,} rejected"
