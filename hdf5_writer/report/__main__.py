"""Command line of `python -m hdf5_writer.report DIR`; `create_hdf5_dataset` runs it after writing all other files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hdf5_writer.layout import OutputLayout
from hdf5_writer.report.page import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of a finished dataset and return the exit code; errors are printed as one line."""
    parser = argparse.ArgumentParser(
        prog="python -m hdf5_writer.report",
        description="Write report.html of a dataset written by create_hdf5_dataset.",
    )
    parser.add_argument("output_dir", type=Path, help="setup.output_dir of a finished run")
    parser.add_argument("--command", help="command of the run, to show in the report")
    options = parser.parse_args(arguments)
    try:
        print(write_report(OutputLayout(options.output_dir), options.command, _warn))
    except FileNotFoundError as error:
        return _fail(
            f"{error.filename}: is missing, so this is not a finished dataset; give the setup.output_dir of a run"
        )
    except Exception as error:  # the dataset itself is complete, so one sentence is enough for any failure
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        message = " ".join(str(error).split()) or "no message"
        return _fail(f"{where}{type(error).__name__}: {message}")
    return 0


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)


def _fail(message: str) -> int:
    print(f"report: {message}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
