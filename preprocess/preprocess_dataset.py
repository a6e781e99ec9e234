"""Command line of the converters from source datasets to JSONL conversations.

Exit codes: 0 done (or nothing to do), 1 failed (disk full, interrupted), 2 wrong arguments or inputs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial

from preprocess.converters.core.converter import Converter
from preprocess.converters.core.errors import InputError, UnfinishedError
from preprocess.converters.core.job import Job, check, run
from preprocess.converters.core.receipt import Counts
from preprocess.converters.instruction_data import command as instruction_data
from preprocess.converters.json2jsonl import CONVERTER as JSON2JSONL
from preprocess.converters.registry import CONVERTERS

DONE, FAILED, WRONG_INPUT = 0, 1, 2

_SHARED_HELP = """
For each X.jsonl the command also writes X.rejects.jsonl, if records were rejected, with {"file", "position", "reason",
"detail"} for each; and X.jsonl.receipt, which records the inputs and arguments. Rerunning a finished command does
nothing; rerunning an interrupted one restarts the unfinished file; with other inputs or arguments, --overwrite is
required to replace an output.
Exit codes: 0 done, 1 failed, 2 wrong arguments or inputs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """`preprocess_dataset`: one sub-command per source dataset."""
    parser = argparse.ArgumentParser(
        prog="preprocess_dataset",
        description="Convert a source dataset of LLaVA's two phases to JSONL conversations.",
        epilog="'preprocess_dataset COMMAND -h' describes what a command reads and writes.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for dataset in CONVERTERS:
        command = commands.add_parser(
            dataset.name,
            help=dataset.help,
            description=dataset.description + _SHARED_HELP,
            epilog=f"example: {parser.prog} {dataset.name} {dataset.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _declare(command, dataset)
    instruction_data.declare(commands)
    parsed = parser.parse_args(arguments)
    command_name = f"{parser.prog} {parsed.command}"
    if parsed.command == "instructions":
        return _reported(f"{command_name} {parsed.step_name}", partial(parsed.step, parsed))
    return _convert(parsed.dataset, parsed, command_name)


def convert_json2jsonl_main(arguments: Sequence[str] | None = None) -> int:
    """`convert_json2jsonl`, the same as `preprocess_dataset convert_json2jsonl`."""
    parser = argparse.ArgumentParser(
        prog="convert_json2jsonl",
        description=JSON2JSONL.description + _SHARED_HELP,
        epilog=f"example: convert_json2jsonl {JSON2JSONL.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _declare(parser, JSON2JSONL)
    return _convert(JSON2JSONL, parser.parse_args(arguments), parser.prog)


def _declare(parser: argparse.ArgumentParser, dataset: Converter) -> None:
    dataset.add_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    parser.set_defaults(dataset=dataset)


def _convert(dataset: Converter, arguments: argparse.Namespace, command: str) -> int:
    return _reported(command, partial(_run_jobs, dataset, arguments))


def _run_jobs(dataset: Converter, arguments: argparse.Namespace) -> None:
    jobs = dataset.plan(arguments)
    # Check all jobs before running any, so that a refused command writes nothing.
    finished = [check(job, overwrite=arguments.overwrite) for job in jobs]
    total = Counts()
    incomplete: list[Job] = []
    for job, earlier in zip(jobs, finished, strict=True):
        counts = run(job, overwrite=arguments.overwrite) if earlier is None else earlier
        print(_summary(job, counts, "wrote" if earlier is None else "finished earlier, nothing to do:"), flush=True)
        total += counts
        if not counts.all_files_complete:
            incomplete.append(job)
    if len(jobs) > 1:
        print(f"{len(jobs)} files: {_counted(total)}")
    if incomplete:
        names = ", ".join(str(job.inputs[0]) for job in incomplete[:3]) + (", …" if len(incomplete) > 3 else "")
        raise InputError(
            f"{len(incomplete)} of {len(jobs)} files cannot be read to the end ({names}): see the rejects, download "
            "these files again, and rerun"
        )
    if total.read and not total.written:
        raise InputError(
            f"no records were written ({total.read:,} rejected); see the rejects for the reasons, and check that this "
            "is the right dataset"
        )


def _reported(command: str, work: Callable[[], None]) -> int:
    """Run `work`; print an error as one sentence; return the exit code."""
    try:
        work()
    except InputError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return WRONG_INPUT
    except UnfinishedError as error:
        print(f"{command}: {error}; rerun to resume", file=sys.stderr)
        return FAILED
    except PermissionError as error:
        print(
            f"{command}: {error.filename}: {error.strerror}; correct the permissions, or give another path",
            file=sys.stderr,
        )
        return WRONG_INPUT
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"{command}: {where}{error.strerror or error}; finished outputs are kept: fix this and rerun",
            file=sys.stderr,
        )
        return FAILED
    except KeyboardInterrupt:
        print(f"{command}: interrupted; finished outputs are kept: rerun to resume", file=sys.stderr)
        return FAILED
    return DONE


def _summary(job: Job, counts: Counts, done: str) -> str:
    rejects = ", ".join(f"{number:,} {reason}" for reason, number in counts.rejected.items())
    listed = f"\n  rejected: {rejects}; listed in {job.rejects}" if rejects else ""
    note = f"\n  {job.note}" if job.note else ""
    return f"{done} {job.output}: {_counted(counts)}{listed}{note}"


def _counted(counts: Counts) -> str:
    images = f", {counts.images:,} images" if counts.images else ""
    rejected = sum(counts.rejected.values())
    turns = f", {counts.turns_left_out:,} turns dropped" if counts.turns_left_out else ""
    return f"{counts.read:,} read = {counts.written:,} written + {rejected:,} rejected{images}{turns}"


if __name__ == "__main__":
    sys.exit(main())
