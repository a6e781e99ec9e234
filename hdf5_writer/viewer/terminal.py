"""Rows as text for a terminal: what each line is stands before it, and colours say it again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TextIO

from hdf5_writer.viewer.dataset import Row
from hdf5_writer.viewer.decoding import Speller
from hdf5_writer.viewer.runs import Run, row_runs

_CODES = {"supervised": "30;42", "context": "0", "image": "30;44", "masked": "30;43", "padding": "2"}
_LABELS = {"supervised": "answer", "context": "prompt", "image": "image", "masked": "no image", "padding": "padding"}
_WIDTH = max(map(len, _LABELS.values()))
_NAMES = {"image": "image slots", "masked": "dummy image slots, masked: text only", "padding": "positions of padding"}


def wants_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal whose user has not set NO_COLOR (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def terminal_rows(rows: Iterable[Row], speller: Speller, *, coloured: bool) -> Iterable[str]:
    """One text a row."""
    for row in rows:
        image = f"image {visible(row.image_path)}" if row.image_path is not None else "text only"
        lines = [f"row {row.number} · {visible(row.file)}:{row.line} · {image} · {row.used} positions"]
        lines += [f"  broken: {problem}" for problem in row.problems]
        runs = row_runs(row)
        lines += [_paint(run, speller, coloured) for run in runs]
        yield "\n".join(lines) + "\n"


def visible(text: str) -> str:
    """Text without anything that could steer a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _paint(run: Run, speller: Speller, coloured: bool) -> str:
    if run.kind in _NAMES:
        text = f"[{run.count:,} {_NAMES[run.kind]}, from position {run.start}]"
    elif speller.knows_text:
        parts = speller.parts(run.ids, run.start == 0 or run.after_image)
        text = "".join(part.text for part in parts)
    else:
        text = " ".join(map(str, run.ids))
    shown = [visible(line) for line in text.split("\n")]
    if coloured:
        # Colour ends with the line: a coloured line end paints the rest of the line in some terminals.
        shown = [f"\x1b[{_CODES[run.kind]}m{line}\x1b[0m" for line in shown]
    labels = [_LABELS[run.kind], *[""] * (len(shown) - 1)]
    return "\n".join(f"{label:<{_WIDTH}} │ {line}" for label, line in zip(labels, shown, strict=True))
