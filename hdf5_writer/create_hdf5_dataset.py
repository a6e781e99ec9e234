"""Command line of `create_hdf5_dataset`.

Modules of the project are imported inside functions, so that interrupts are handled from the start.
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

DONE, FAILED, WRONG_INPUT, TOO_MANY_REJECTS = 0, 1, 2, 3

_EPILOG = """\
Override any config key with section.key=value:
  create_hdf5_dataset --config llava_phase_2_preproc.yaml setup.processes=16 processor.max_sequence_length=4096
After an interruption, run the same command again: it resumes and produces byte-identical output.

Exit codes: 0 finished and verified; 1 the run failed (finished shards are kept); 2 config, arguments or inputs are
wrong; 3 finished, but more records were rejected than setup.max_reject_fraction allows; 130, 143 interrupted.
"""


class _Interrupted(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    before: dict[signal.Signals, Any] = {}
    interrupted = False
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.getsignal(number)
            signal.signal(number, _interrupt)
        return _run_command(sys.argv[1:] if arguments is None else list(arguments))
    except _Interrupted as interrupt:
        interrupted = True
        # Ignore further interrupts during the short shutdown.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        return _fail(
            128 + interrupt.number, "interrupted; finished shards are kept: run the same command again to resume"
        )
    finally:
        # Restore the handlers for a calling program; an interrupted command exits and keeps ignoring signals.
        if arguments is not None or not interrupted:
            for number, handler in before.items():
                signal.signal(number, handler)


def _run_command(arguments: list[str]) -> int:
    """Run the command; print an error as one sentence and return its exit code."""
    options = _parse(arguments)
    from preprocess.config import ConfigError

    try:
        return _run(options, shlex.join(["create_hdf5_dataset", *arguments]))
    except ConfigError as error:
        return _fail(WRONG_INPUT, str(error))
    except _OutputClosedError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # avoids a second error message when Python exits
        return _fail(FAILED, f"standard output cannot be written ({error}); all files were written")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(
            FAILED,
            f"{where}{error.strerror or error}; finished shards are kept: {_remedy(error)} "
            "and run the same command again",
        )
    except RuntimeError as error:
        return _fail(FAILED, " ".join(str(error).split()))


def _parse(arguments: list[str]) -> argparse.Namespace:
    # Signals are kept, since argparse raises an unrelated error if a handler raises within `parse_intermixed_args`.
    received: list[int] = []
    before = {n: signal.signal(n, lambda number, _: received.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _parser().parse_intermixed_args(arguments)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            raise _Interrupted(received[0])


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space there"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "make it readable and writable"
    if error.errno == errno.EROFS:
        return "make it writable"
    if str(error.strerror).startswith("No usable temporary directory"):
        return "set TMPDIR to a folder with free space"
    return "fix this"


class _OutputClosedError(Exception):
    pass


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as error:
        raise _OutputClosedError(error.strerror) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="create_hdf5_dataset",
        description="Convert JSONL conversations and images to verified HDF5 shards of fixed-length rows "
        "for LLaVA-style training.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="YAML file, or name of a config shipped with the package, such as llava_phase_2_preproc.yaml",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override a key of the config")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan, the first record with ids, tokens and supervised flags, and the expected fill of the "
        "rows; write nothing",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="process only the first N records")
    recovery = parser.add_argument_group("restarting and recovering")
    recovery.add_argument(
        "--overwrite",
        action="store_true",
        help="remove the output of an earlier run from setup.output_dir and start over",
    )
    recovery.add_argument(
        "--skip-task",
        type=_count,
        action="append",
        default=[],
        metavar="K",
        help="skip task K (from 0): its records are rejected with the reason 'skipped'; can be repeated",
    )
    recovery.add_argument(
        "--keep-going",
        action="store_true",
        help="start even if most of the records in the check before the run would be rejected",
    )
    slices = parser.add_argument_group("splitting a run over several jobs")
    slices.add_argument(
        "--task-slice",
        type=_part,
        metavar="i/N",
        help="run only tasks i, i+N, i+2N, … (i from 0 to N-1), for job arrays: run all N slices, then --finalize",
    )
    slices.add_argument(
        "--finalize",
        action="store_true",
        help="write data_params.json, rejects.jsonl and the report after all slices are done",
    )
    parser.add_argument("--version", action="version", version=f"llava-hdf5 {_version()}")
    return parser


def _version() -> str:
    from hdf5_writer import __version__

    return __version__


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of records; give a whole number of at least 1")
    return number


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a task number; give a whole number of at least 0")
    return int(text)


def _part(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a slice; give i/N with i from 0 to N-1, such as 0/8")
    return int(index), int(count)


def _run(options: argparse.Namespace, command: str) -> int:
    from hdf5_writer.config import read_config
    from preprocess.config import ConfigError

    config = read_config(options.config, options.overrides)
    if options.dry_run:
        from hdf5_writer.dry_run import describe_plan

        _print(describe_plan(config, options.limit, overwrite=options.overwrite))
        return DONE
    if options.overwrite and (options.task_slice or options.finalize):
        raise ConfigError(
            "--overwrite: slices that start at different times would remove each other's shards; "
            f"remove the folder {config.setup.output_dir} first, or give another setup.output_dir"
        )
    if options.task_slice and options.finalize:
        raise ConfigError("--finalize: must run separately, after all slices; remove --task-slice")
    from hdf5_writer.engines.local import TasksFailedError
    from hdf5_writer.failures import explain_failed_tasks
    from hdf5_writer.progress import ConsoleProgress, summary_table
    from hdf5_writer.run import Part, create_dataset, create_part, finalize

    progress = ConsoleProgress()
    try:
        if options.task_slice:
            part = Part(*options.task_slice)
            read = create_part(
                config,
                progress,
                part,
                limit=options.limit,
                skip_tasks=options.skip_task,
                keep_going=options.keep_going,
            )
            print(
                f"slice {part.index} of {part.count} is done, {read:,} records read; run --finalize when all slices are"
            )
            return DONE
        if options.finalize:
            outcome = finalize(config, limit=options.limit)
        else:
            outcome = create_dataset(
                config,
                progress,
                limit=options.limit,
                overwrite=options.overwrite,
                skip_tasks=options.skip_task,
                keep_going=options.keep_going,
            )
    except TasksFailedError as error:
        return _fail(FAILED, explain_failed_tasks(config, error))
    if outcome.already_done:
        _print("nothing to do: this dataset is complete (verify_hdf5_dataset checks every byte of it)")
    _print(summary_table(outcome.params, outcome.read, progress.seconds))
    _report(config.setup.output_dir, command, keep=outcome.already_done)
    return _check_rejects(outcome.params["counts"], config.setup.max_reject_fraction, str(config.setup.output_dir))


def _report(output_dir: Path, command: str, *, keep: bool) -> None:
    """Write `report.html`; with `keep`, only if it does not exist."""
    from hdf5_writer.layout import OutputLayout
    from hdf5_writer.report.process import write_in_own_process

    report = OutputLayout(output_dir).report
    if not (keep and report.exists()):
        made = write_in_own_process(output_dir, command)
        for line in made.warnings:
            print(line, file=sys.stderr)
        if made.problem:
            print(f"create_hdf5_dataset: {made.problem}", file=sys.stderr)
            return
    _print(f"{'report':<17}  {report}")


def _check_rejects(counts: dict[str, int], allowed: float, output_dir: str) -> int:
    rejected, read = counts["rejected"], counts["read"]
    if rejected > allowed * read:
        return _fail(
            TOO_MANY_REJECTS,
            f"{rejected:,} of {read:,} record{' was' if read == 1 else 's were'} rejected "
            f"({rejected / read:.1%}), more than setup.max_reject_fraction {allowed} allows; "
            f"see {output_dir}/rejects.jsonl, correct the data or the config and run again with --overwrite",
        )
    return DONE


def _interrupt(number: int, _: FrameType | None) -> None:
    raise _Interrupted(number)


def _fail(code: int, message: str) -> int:
    print(f"create_hdf5_dataset: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
