"""Show the progress of a run, as a bar in a terminal or notebook and as lines elsewhere, and the summary at its end."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from tqdm.auto import tqdm

from hdf5_writer.planning.formats import formats_in_words
from hdf5_writer.planning.plan import Plan
from hdf5_writer.task import TaskDone
from hdf5_writer.viewer.terminal import visible

_SECONDS_BETWEEN_LINES = 10.0
_TRUNCATED_UNNOTICED = 0.01
_KEYS_SHOWN = 5


class ConsoleProgress:
    """Progress on stderr; satisfies `hdf5_writer.run.Progress`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: tqdm[Any] | None = None
        self._began = self._said = 0.0
        self._read = self._rejected = self._total = 0
        self.seconds = 0.0

    def note(self, sentence: str) -> None:
        """Print a note or a warning."""
        self._print(sentence if sentence.startswith("warning: ") else f"note: {sentence}")

    def planned(self, plan: Plan, done: int, records: int) -> None:
        """Print the plan and start the bar; `records` are still to be read."""
        finished = f", {done} of them finished before" if done else ""
        formats = formats_in_words(plan.inputs)
        self._print(
            f"{len(plan.inputs)} input file(s) ({formats}), {plan.records:,} records → {plan.tasks} shard(s){finished}"
        )
        self._total = records
        self._began = self._said = time.monotonic()
        if self._total and (self._stream.isatty() or "ipykernel" in sys.modules):
            self._bar = tqdm(total=self._total, unit="records", unit_scale=True, file=self._stream, smoothing=0.05)

    def advance(self, task: TaskDone) -> None:
        """Count a finished task."""
        self._read += task.read
        self._rejected += task.read - task.written
        if self._bar is not None:
            self._bar.set_postfix(rejected=self._rejected, refresh=False)
            self._bar.update(task.read)
            return
        now = time.monotonic()
        if now - self._said >= _SECONDS_BETWEEN_LINES:
            self._said = now
            rate = self._read / (now - self._began)
            left = max(self._total - self._read, 0) / rate
            self._print(
                f"{self._read:,} of {self._total:,} records, {rate:,.0f} records/s, {self._rejected:,} rejected, "
                f"about {left:,.0f} s left"
            )

    def close(self) -> None:
        """Stop the clock and the bar."""
        self.seconds = time.monotonic() - self._began
        if self._bar is not None:
            self._bar.close()

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def summary_table(params: dict[str, Any], read: int, seconds: float) -> str:
    """Format the table that is printed at the end of a run.

    Args:
        params: content of `data_params.json`.
        read: records read by this run.
        seconds: duration of its tasks.
    """
    rows = summary_rows(params)
    if read:
        rows.append(("records/s", f"{read / max(seconds, 1e-9):,.0f} (including worker start-up)"))
    rows += [("warning", sentence) for sentence in dataset_warnings(params)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def summary_rows(params: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the counts of records, rows and tokens as (name, value); `params` is the content of `data_params.json`."""
    counts, tokens = params["counts"], params["tokens"]
    positions = tokens["total"] + tokens["padding"]
    written = f"{counts['written']:,} ({counts['with_image']:,} with image, {counts['text_only']:,} text only)"
    samples = f"{counts['written'] / max(params['rows'], 1):.2f} samples a row"
    start = params["image_start_idx"]
    rows = [
        ("read", f"{counts['read']:,}"),
        ("written", written),
        ("rejected", f"{counts['rejected']:,}"),
        *((f"  {reason}", f"{number:,}") for reason, number in counts["rejected_by_reason"].items()),
        *([("rows", f"{params['rows']:,}, {samples}")] if params["packing"] != "none" else []),
        ("truncated", f"{counts['truncated']:,}"),
        ("images cut off", f"{counts['images_cut']:,}"),
        ("image token moved", f"{counts['images_moved']:,}"),
        ("first turn skipped", f"{counts['first_turns_skipped']:,}"),
        ("dropped rounds", f"{counts['dropped_rounds']:,} without an answer"),
        ("text tokens", f"{tokens['text']:,}"),
        ("supervised tokens", f"{tokens['supervised']:,} ({_percent(tokens['supervised'], tokens['text'])} of text)"),
        ("image positions", f"{tokens['image']:,}"),
        ("padding", f"{_percent(tokens['padding'], positions)} of {positions:,} positions"),
        *([] if start is None else [("image_start_idx", str(start))]),
        ("shards", f"{len(params['shards'])} ({sum(shard['bytes'] for shard in params['shards']):,} bytes)"),
    ]
    optional = {"truncated", "images cut off", "image token moved", "first turn skipped", "dropped rounds"}
    return [(name, value) for name, value in rows if not (name in optional and value.split()[0] == "0")]


def dataset_warnings(params: dict[str, Any]) -> list[str]:
    """Return warnings about a dataset that matter for training, one sentence each."""
    counts, length = params["counts"], params["max_sequence_length"]
    found = []
    if counts["truncated"] > _TRUNCATED_UNNOTICED * counts["written"]:
        share = _percent(counts["truncated"], counts["written"])
        found.append(f"{_samples(counts['truncated'])} ({share}) cut at {length:,} positions")
    if counts["text_only_cut"]:
        slots = f"{params['num_patches']:,} of {length:,} positions"
        found.append(f"{_samples(counts['text_only_cut'], 'text-only ')} cut; the dummy image occupies {slots}")
    if counts["duplicates"]:
        found.append(f"{_samples(counts['duplicates'])} with the same image and text as another sample")
    if counts["unused_keys"]:
        shown = [f"{visible(name)} {records:,}" for name, records in counts["unused_keys"].items()]
        more = f" and {len(shown) - _KEYS_SHOWN} more" if len(shown) > _KEYS_SHOWN else ""
        found.append(f"unused keys: {', '.join(shown[:_KEYS_SHOWN])}{more}")
    return found


def _samples(number: int, kind: str = "") -> str:
    return f"{number:,} {kind}sample{'' if number == 1 else 's'}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0%"
