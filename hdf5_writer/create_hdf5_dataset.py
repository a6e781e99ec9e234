"""`create_hdf5_dataset --config FILE`: command line only."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from hdf5_writer import __version__
from hdf5_writer.layout import OutputLayout
from preprocess.config import ConfigError, load_config

DONE, FAILED, WRONG_INPUT, TOO_MANY_REJECTS = 0, 1, 2, 3

_EPILOG = """\
Give any key of the config as section.key=value to override it:
  create_hdf5_dataset --config llava_phase_2_preproc.yaml setup.processes=16 processor.max_sequence_length=4096
Run the same command again after an interruption: finished shards are kept, the rest is made, the bytes are the same.

Exit codes: 0 done and verified; 1 the run failed (what is finished stays); 2 config, arguments or inputs are wrong;
3 finished, but more records were rejected than setup.max_reject_fraction allows; 130, 143 interrupted.
"""


class _Interrupted(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return _run(options, shlex.join(["create_hdf5_dataset", *(sys.argv[1:] if arguments is None else arguments)]))
    except ConfigError as error:
        return _fail(WRONG_INPUT, str(error))
    except _Interrupted as interrupt:
        _fail(128 + interrupt.number, "interrupted; finished shards are kept: run the same command again to go on")
        # Workers end with this process; waiting for their tasks would take as long as those do.
        sys.stdout.flush()
        os._exit(128 + interrupt.number)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(
            FAILED,
            f"{where}{error.strerror or error}; finished shards are kept: mend that and run the same command again",
        )
    except RuntimeError as error:
        return _fail(FAILED, " ".join(str(error).split()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="create_hdf5_dataset",
        description="Turn JSONL conversations and images into verified HDF5 shards of fixed-length rows "
        "for LLaVA-style training.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a YAML file, or the name of a config that ships with the package",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override a key of the config")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan and the first record with ids, tokens and supervised flags; write nothing",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="take the first N records only")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="remove what an earlier run wrote into setup.output_dir, and start afresh",
    )
    parser.add_argument("--version", action="version", version=f"llava-hdf5 {__version__}")
    return parser


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of records; give a whole number from 1")
    return number


def _run(options: argparse.Namespace, command: str) -> int:
    config = load_config(options.config, options.overrides)
    if options.dry_run:
        from hdf5_writer.dry_run import describe_plan

        print(describe_plan(config, options.limit))
        return DONE
    from hdf5_writer.engine import TasksFailedError
    from hdf5_writer.progress import ConsoleProgress, summary_table
    from hdf5_writer.run import create_dataset

    progress = ConsoleProgress()
    try:
        outcome = create_dataset(config, progress, limit=options.limit, overwrite=options.overwrite)
    except TasksFailedError as error:
        size = config.setup.samples_per_shard
        ranges = ", ".join(f"task {task} (records {task * size}–{(task + 1) * size - 1})" for task in error.tasks)
        return _fail(FAILED, f"{error}: {ranges}; everything else is done")
    if outcome.already_done:
        print("nothing to do: this dataset is finished (verify_hdf5_dataset reads every byte of it)")
    print(summary_table(outcome.params, outcome.read, progress.seconds), flush=True)
    _report(OutputLayout(config.setup.output_dir), command, keep=outcome.already_done)
    return _judge(outcome.params["counts"], config.setup.max_reject_fraction, str(config.setup.output_dir))


def _report(layout: OutputLayout, command: str, *, keep: bool) -> None:
    """Write `report.html`; `keep` one that is there already."""
    if not (keep and layout.report.exists()):
        from hdf5_writer.report import write_report

        try:
            write_report(layout, command)
        except Exception as error:  # the dataset is whole and verified: a page about it must not fail the run
            said = " ".join(str(error).split())
            print(
                f"create_hdf5_dataset: warning: {layout.report} could not be written ({type(error).__name__}: {said}); "
                "the dataset itself is complete: run the same command again for the page",
                file=sys.stderr,
            )
            return
    print(f"{'report':<17}  {layout.report}")


def _judge(counts: dict[str, int], allowed: float, output_dir: str) -> int:
    rejected, read = counts["rejected"], counts["read"]
    if rejected > allowed * read:
        return _fail(
            TOO_MANY_REJECTS,
            f"{rejected:,} of {read:,} records were rejected ({rejected / read:.1%}), more than "
            f"setup.max_reject_fraction {allowed} allows; see {output_dir}/rejects.jsonl, "
            "mend the data or the config and run again with --overwrite",
        )
    return DONE


def _interrupt(number: int, _: FrameType | None) -> None:
    raise _Interrupted(number)


def _fail(code: int, message: str) -> int:
    print(f"create_hdf5_dataset: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
