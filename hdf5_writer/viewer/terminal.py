"""Format rows as text for a terminal; each line has a label for its kind, and optionally a colour."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import TextIO

from hdf5_writer.viewer.decoding import TokenDecoder
from hdf5_writer.viewer.row import Row, RowSample
from hdf5_writer.viewer.runs import Run, padding_run, sample_runs

_CODES = {"supervised": "30;42", "context": "0", "image": "30;44", "masked": "30;43", "padding": "2"}
_LABELS = {"supervised": "answer", "context": "prompt", "image": "image", "masked": "no image", "padding": "padding"}
_WIDTH = max(map(len, _LABELS.values()))
_NAMES = {
    "image": "image slot{s}",
    "masked": "dummy image slot{s}, masked (text only)",
    "padding": "padding position{s}",
}
_MAX_NAMES = 3


def wants_colour(stream: TextIO) -> bool:
    """Return whether a stream is a terminal and NO_COLOR (https://no-color.org) is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def terminal_row(row: Row, decoder: TokenDecoder, *, coloured: bool, selected: Collection[int] = ()) -> str:
    """Format a row as text.

    Args:
        row: the row.
        decoder: token decoder of its dataset.
        coloured: whether to use colours.
        selected: numbers of the samples to show in full; the others take one line each. Empty shows all.
    """
    several = len(row.samples) > 1
    if several:
        lines = [f"row {row.number} · {len(row.samples)} samples · {_images(row.images)} · {row.used} positions"]
    else:
        lines = [f"row {row.number} · {_facts(row.samples[0])}"]
    lines += [f"  invalid row: {problem}" for problem in row.problems]
    for sample in row.samples:
        if several:
            lines += ["", f"sample {sample.number + 1} of {len(row.samples)} · {_facts(sample)}"]
        if not selected or sample.number in selected:
            lines += [_paint(run, decoder, coloured) for run in sample_runs(row, sample)]
    padding = padding_run(row)
    if padding is not None:
        lines += [*([""] if several else []), _paint(padding, decoder, coloured)]
    return "\n".join(lines) + "\n"


def visible(text: str) -> str:
    """Escape control characters, so that a text cannot control the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _facts(sample: RowSample) -> str:
    paths = [visible(image.path) for image in sample.images]
    images = "text only"
    if paths:
        more = f" and {len(paths) - _MAX_NAMES} more" if len(paths) > _MAX_NAMES else ""
        images = f"image{'s' * (len(paths) > 1)} {', '.join(paths[:_MAX_NAMES])}{more}"
    return f"{visible(sample.source)} · {images} · {sample.length} positions"


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}" if count else "text only"


def _paint(run: Run, decoder: TokenDecoder, coloured: bool) -> str:
    if run.kind in _NAMES:
        path = "" if run.image is None else f" of {visible(run.image.path)}"
        name = _NAMES[run.kind].format(s="" if run.count == 1 else "s")
        text = f"[{run.count:,} {name}{path}, from position {run.start}]"
    elif decoder.has_tokenizer:
        parts = decoder.parts(run.ids, decoder.starts_text(run.before, run.after_image))
        text = "".join(part.text for part in parts)
    else:
        text = " ".join(map(str, run.ids))
    shown = [visible(line) for line in text.split("\n")]
    if coloured:
        # Reset the colour before the line end: some terminals otherwise colour the rest of the line.
        shown = [f"\x1b[{_CODES[run.kind]}m{line}\x1b[0m" for line in shown]
    labels = [_LABELS[run.kind], *[""] * (len(shown) - 1)]
    return "\n".join(f"{label:<{_WIDTH}} │ {line}" for label, line in zip(labels, shown, strict=True))
