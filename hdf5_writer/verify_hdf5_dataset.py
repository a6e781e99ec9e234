"""Command line of `verify_hdf5_dataset`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_MAX_SHOWN = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if every check passed, 1 if problems were found, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="verify_hdf5_dataset",
        description="Check a dataset written by create_hdf5_dataset: the sha256 of every shard, the invariants of "
        "every row, and that every record of the plan was either written or rejected, exactly once.",
        epilog="Exit codes: 0 every check passed; 1 problems were found (listed on stderr); 2 wrong arguments.",
    )
    parser.add_argument("output_dir", type=Path, help="setup.output_dir of a finished run")
    root: Path = parser.parse_args(arguments).output_dir
    from hdf5_writer.verify import verify_dataset
    from preprocess.regular_files import unreadable

    try:
        if not root.is_dir():
            print(f"verify_hdf5_dataset: {root}: no such folder; give the setup.output_dir of a run", file=sys.stderr)
            return 2
        summary = verify_dataset(root)
    except OSError as error:
        where = error.filename or root
        print(f"verify_hdf5_dataset: {where}: {unreadable(error, 'check the file system')}", file=sys.stderr)
        return 1
    for note in summary.notes:
        print(f"note: {note}")
    for problem in summary.problems[:_MAX_SHOWN]:
        print(problem, file=sys.stderr)
    if len(summary.problems) > _MAX_SHOWN:
        print(f"… and {len(summary.problems) - _MAX_SHOWN} more", file=sys.stderr)
    if summary.problems:
        print(
            f"verify_hdf5_dataset: {root}: {_counted(len(summary.problems), 'problem')} found; make unreadable files "
            "readable, remove damaged and foreign ones, and rerun the command that wrote the dataset: it rewrites "
            "missing files",
            file=sys.stderr,
        )
        return 1
    counts = f"{_counted(summary.shards, 'shard')}, {_counted(summary.rows, 'row')}"
    print(f"{root}: {counts}: every check passed")
    return 0


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
