"""Scaling with the number of records, and time per stage of one worker."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.generate import phase_2_records, write_records
from benchmarks.measure import Contestant, Measured, run_once
from benchmarks.preprocessing import command
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.plan import read_plan
from hdf5_writer.receipts import all_receipts
from hdf5_writer.report.throughput import STAGES
from preprocess.tokenize.tokenizer import load_tokenizer

COUNTS = (10_000, 100_000, 1_000_000)
PROCESSES = 2


@dataclass(frozen=True)
class ScalingPoint:
    """Measurements of the whole command for one number of records.

    Attributes:
        seconds: duration of the whole command.
        start_seconds: time until the first task starts: imports, plan, tokenizer.
        peak_bytes: peak resident set size of its largest process.
        rerun_seconds: duration of a second run of the finished command.
        stages: microseconds per record in each stage, over all workers.
    """

    records: int
    seconds: float
    start_seconds: float
    peak_bytes: int
    rerun_seconds: float
    stages: dict[str, float]


def measure_scaling(
    folder: Path, tokenizer: Path, note: Callable[[str], None], counts: tuple[int, ...] = COUNTS
) -> list[ScalingPoint]:
    """Run phase 2 with two processes, with ten times more records each time."""
    loaded = load_tokenizer(str(tokenizer))
    points = []
    for count in counts:
        data = write_records(folder / f"{count}.jsonl", phase_2_records(loaded, count))
        out = folder / "points"
        note(f"{count:,} records")
        began = time.time()
        first = run(count, command(tokenizer, data, out, 2, PROCESSES), out)
        receipts = read_receipts(out)
        again = run(count, command(tokenizer, data, out, 2, PROCESSES), None)
        points.append(
            ScalingPoint(
                records=count,
                seconds=first.seconds[0],
                start_seconds=min(receipt["report"]["began"] for receipt in receipts) - began,
                peak_bytes=first.peak_bytes,
                rerun_seconds=again.seconds[0],
                stages=stages_of(receipts),
            )
        )
        shutil.rmtree(out)
        data.unlink()
    return points


def run(count: int, arguments: list[str], out: Path | None) -> Measured:
    result = Measured("", count, "")
    run_once(Contestant("ours", arguments, count, out=out), result)
    return result


def read_receipts(out: Path) -> list[dict[str, Any]]:
    layout = OutputLayout(out)
    return list(all_receipts(layout, read_plan(layout)))


def stages_of(receipts: list[dict[str, Any]]) -> dict[str, float]:
    """Return microseconds per record in each stage."""
    seconds: Counter[str] = Counter()
    for receipt in receipts:
        seconds.update(receipt["report"]["stages"])
    records = sum(receipt["read"] for receipt in receipts)
    return {stage: seconds[stage] / records * 1e6 for stage in STAGES if seconds[stage]}


def scaling_table(points: list[ScalingPoint]) -> str:
    """Return a Markdown table."""
    lines = [
        "| records | whole command | per record | until the first task | peak memory per process "
        "| rerun, nothing to do |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in points:
        lines.append(
            f"| {row.records:,} | {row.seconds:.1f} s | {row.seconds / row.records * 1e6:.0f} µs "
            f"| {row.start_seconds:.2f} s | {row.peak_bytes / 2**20:.0f} MB | {row.rerun_seconds:.2f} s |"
        )
    return "\n".join(lines)


def stage_table(row: ScalingPoint) -> str:
    """Return a Markdown table of the time per stage of a worker."""
    total = sum(row.stages.values())
    lines = ["| stage | µs per record | share |", "|---|---:|---:|"]
    lines += [f"| {STAGES[stage]} | {spent:.1f} | {spent / total:.0%} |" for stage, spent in row.stages.items()]
    return "\n".join([*lines, f"| all | {total:.1f} | |"])


def scaling_json(points: list[ScalingPoint]) -> list[dict[str, Any]]:
    return [asdict(row) for row in points]


def scaling_ratios(points: list[ScalingPoint]) -> dict[str, float]:
    """Return the ratios of the largest run to the smallest."""
    first, last = points[0], points[-1]
    return {
        f"peak memory, {first.records:,} against {last.records:,} records": first.peak_bytes / last.peak_bytes,
    }
