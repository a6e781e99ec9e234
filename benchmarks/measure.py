"""Run contestants as processes, in turn and repeatedly, and compare their medians."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


# A small separate process starts the contestant: Linux counts the memory of the parent in the peak of the child.
_LAUNCHER = """
import json, os, sys, time
began = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 0)
seconds = time.perf_counter() - began
found = {"code": os.waitstatus_to_exitcode(status), "seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024}
with open(sys.argv[1], "w") as file:
    json.dump(found, file)
"""


@dataclass(frozen=True)
class Contestant:
    """One way to do the work, as a command.

    Attributes:
        name: name in the table.
        command: arguments of Python. If its last line on standard output is `{"seconds": …}`, only that time counts,
            without start-up.
        rows: number of rows that it writes or reads in each run.
        not_included: work of ours that it does not do.
        out: its output file or folder, whose size is measured; removed before each run.
        environment: variables added to the environment of this process.
    """

    name: str
    command: Sequence[str]
    rows: int
    not_included: str = ""
    out: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Measured:
    """Result: seconds of every run, the peak resident set size of its largest process, and bytes written."""

    name: str
    rows: int
    not_included: str
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    out_bytes: int | None = None
    printed: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Rows per second of the median run."""
        return self.rows / statistics.median(self.seconds)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rows_per_second": self.rate}


def run_alternating(contestants: Sequence[Contestant], repeats: int, note: Callable[[str], None]) -> list[Measured]:
    """Run all contestants once, then all again, so that a slower machine affects all of them equally.

    Raises:
        RuntimeError: one failed; the message contains its output.
    """
    measured = [Measured(c.name, c.rows, c.not_included) for c in contestants]
    for repeat in range(repeats):
        for contestant, result in zip(contestants, measured, strict=True):
            note(f"{contestant.name} ({repeat + 1} of {repeats})")
            run_once(contestant, result)
    return measured


def run_once(contestant: Contestant, result: Measured) -> None:
    """Run a contestant once and add the measurements to its result."""
    if contestant.out is not None:
        remove(contestant.out)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **contestant.environment}
    with tempfile.TemporaryFile() as output, tempfile.NamedTemporaryFile() as measured:
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, measured.name, sys.executable, *contestant.command]
        subprocess.run(launcher, stdout=output, stderr=subprocess.STDOUT, env=environment, check=True)
        found = json.loads(measured.read())
        output.seek(0)
        text = output.read().decode(errors="replace")
    if found["code"]:
        raise RuntimeError(f"{contestant.name} ended with {found['code']}:\n{text[-2000:]}")
    lines = text.strip().splitlines()
    printed = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    result.printed = printed
    result.seconds.append(printed.get("seconds", found["seconds"]))
    result.peak_bytes = max(result.peak_bytes, found["peak_bytes"])
    if contestant.out is not None:
        result.out_bytes = size(contestant.out)


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    subprocess.run(["rm", "-rf", str(path)], check=True)


def size(path: Path) -> int:
    """Return the size in bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def table(measured: Sequence[Measured], ours: str, unit: str = "row") -> str:
    """Return a Markdown table; `ours` is the contestant that others are compared with, `unit` what is counted."""
    mine = next(result for result in measured if result.name == ours)
    lines = [
        f"| | {unit}s/s | speedup of ours | peak memory | output bytes per {unit} | not included |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for result in measured:
        out = "–" if result.out_bytes is None else f"{result.out_bytes / result.rows:,.0f}"
        digits = 0 if result.rate >= 10 else 2
        ratio = "–" if result.name.startswith("ours") else f"{mine.rate / result.rate:.2f}×"
        lines.append(
            f"| {result.name} | {result.rate:,.{digits}f} | {ratio} | {result.peak_bytes / 2**20:,.0f} MB | {out} "
            f"| {result.not_included or '–'} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
        title: title of the table.
        measured: results of all contestants.
        ours: name of the contestant that the others are compared with.
        ratios: the important ratios by name; larger is better.
        unit: what is counted.
    """

    title: str
    measured: Sequence[Measured]
    ours: str
    ratios: dict[str, float]
    unit: str = "row"

    def to_markdown(self) -> str:
        """Heading and table."""
        return f"## {self.title}\n\n{table(self.measured, self.ours, self.unit)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "ours": self.ours,
            "unit": self.unit,
            "measured": [result.to_json() for result in self.measured],
            "ratios": self.ratios,
        }
