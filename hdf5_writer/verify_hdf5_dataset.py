"""`verify_hdf5_dataset OUTPUT_DIR`: command line only."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_MOST_SHOWN = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0 when all is well, 1 when something is wrong, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="verify_hdf5_dataset",
        description="Check a dataset made by create_hdf5_dataset: every byte of every shard against its sha256, "
        "every row against the invariants of the format, and every record of the plan: written or rejected, once.",
        epilog="Exit codes: 0 all is well, 1 something is wrong (listed on stderr), 2 wrong arguments.",
    )
    parser.add_argument("output_dir", type=Path, help="the setup.output_dir of the run")
    root: Path = parser.parse_args(arguments).output_dir
    if not root.is_dir():
        print(f"verify_hdf5_dataset: {root}: no such folder; give the setup.output_dir of a run", file=sys.stderr)
        return 2
    from hdf5_writer.verify import verify_dataset

    summary = verify_dataset(root)
    for note in summary.notes:
        print(f"note: {note}")
    for problem in summary.problems[:_MOST_SHOWN]:
        print(problem, file=sys.stderr)
    if len(summary.problems) > _MOST_SHOWN:
        print(f"… and {len(summary.problems) - _MOST_SHOWN} more", file=sys.stderr)
    if summary.problems:
        print(
            f"verify_hdf5_dataset: {root}: {len(summary.problems)} problem(s) found; remove what is damaged or foreign "
            "and rerun the command that made the dataset: it rewrites what is missing",
            file=sys.stderr,
        )
        return 1
    print(f"{root}: {summary.shards} shards, {summary.rows:,} rows: every check passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
