"""Write `report.html` in a separate process, after all other files are written.

If that process fails, for example for lack of memory, the dataset is still complete and the caller continues.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import hdf5_writer
from hdf5_writer.layout import OutputLayout

# A report on 100 million rows takes a few minutes.
_SECONDS = 1800


class ReportMade(NamedTuple):
    """Result: `problem` says in one sentence why there is no report, or is None; `warnings` are about the dataset."""

    problem: str | None
    warnings: list[str]


def write_in_own_process(output_dir: Path, command: str | None = None) -> ReportMade:
    """Run `python -m hdf5_writer.report` for a finished dataset; `command` is shown on the page."""
    make = [sys.executable, "-m", "hdf5_writer.report", str(output_dir.resolve())]
    # `python -m` searches the working folder first; run it where it finds this package and no other of the same name.
    package_parent = Path(hdf5_writer.__file__).resolve().parent.parent
    try:
        made = subprocess.run(
            [*make, *([] if command is None else ["--command", command])],
            cwd=package_parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
        problem = "" if made.returncode == 0 else _last_line(made.stderr) or f"exit code {made.returncode}"
        warnings = [line for line in made.stderr.splitlines() if line.startswith("warning: ")]
    except subprocess.TimeoutExpired:
        problem, warnings = f"not finished after {_SECONDS // 60} minutes", []
    except OSError as error:
        problem, warnings = f"its process did not start: {error.strerror}", []
    if not problem:
        return ReportMade(None, warnings)
    sentence = (
        f"warning: {OutputLayout(output_dir).report} was not written ({problem}); the dataset itself is complete. "
        f"To write it, run: {shlex.join(['python', *make[1:]])}"
    )
    return ReportMade(sentence, [])


def _last_line(text: str) -> str:
    return " ".join(text.strip().rpartition("\n")[2].split())
