"""Plots of the report, as SVG images in colours that are readable on light and dark backgrounds."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

_INK, _LINE, _FILL, _MARK = "#737d8c", "#8a93a1", "#5585e0", "#dd6c30"
# Text is the only colour that differs in dark mode.
_DARK = b"<style>@media (prefers-color-scheme: dark) { text { fill: #9aa4b2 !important } }</style></svg>"
_MAX_BARS = 48
_FEW_VALUES = 12
# Narrow, so that labels are readable on a phone.
_INCHES = (4.4, 2.1)
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11.0,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _INK,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Plot(NamedTuple):
    """A plot: `uri` is the source of an `<img>`, `name` its alternative text."""

    name: str
    uri: str


def histogram(name: str, rows: npt.NDArray[np.int64], xlabel: str, mark: int | None = None) -> Plot:
    """Plot a histogram of integer values.

    Args:
        name: name of the plot, unique in the page.
        rows: element i counts the value i.
        xlabel: label of the x axis.
        mark: value to mark with a line, such as max_sequence_length; omitted if it is far from the values.
    """
    counts, edges = binned(rows)

    def draw(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=_FILL)
        if edges[-1] - edges[0] <= _FEW_VALUES:
            axes.xaxis.set_major_locator(MultipleLocator(1))
        if mark is not None and mark - edges[-1] <= (edges[-1] - edges[0]) / 4:
            axes.axvline(mark, color=_MARK, linewidth=1.2, linestyle=(0, (4, 2)))

    return _svg(name, draw, xlabel)


def binned(rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Merge counts by value into at most about 50 bins of equal, round width; return counts and bin edges."""
    values = np.flatnonzero(rows)
    if not len(values):
        return np.zeros(1, dtype=np.int64), np.array([-0.5, 0.5])
    low, high = int(values[0]), int(values[-1])
    width = 1
    for step in (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 512, 1024, 2**24):
        width = step
        if (high - low + 1) / step <= _MAX_BARS:
            break
    first = low // width * width
    bins = (high - first) // width + 1
    padded = np.zeros(bins * width, dtype=np.int64)
    inside = rows[first : high + 1]
    padded[: len(inside)] = inside
    return padded.reshape(bins, width).sum(axis=1), first - 0.5 + width * np.arange(bins + 1)


def measurements(name: str, values: Sequence[float], xlabel: str) -> Plot:
    """Plot a histogram of real values."""
    counts, edges = np.histogram(values, bins=24)
    return _svg(name, lambda axes: axes.stairs(counts, edges, fill=True, color=_FILL), xlabel)


def scatter(name: str, points: Sequence[tuple[int, int]], xlabel: str) -> Plot:
    """Plot one dot per distinct pair; both axes start at 0."""

    def draw(axes: Axes) -> None:
        distinct = sorted(set(points))
        axes.plot([x for x, _ in distinct], [y for _, y in distinct], "o", color=_FILL, markersize=4, alpha=0.7)
        axes.set_xlim(left=0)

    return _svg(name, draw, xlabel)


def lengths_plot(name: str, lengths: Sequence[int], cut: Sequence[float], padding: Sequence[float]) -> Plot:
    """Plot the shares of truncated samples and of padding against the maximum sequence length."""

    def draw(axes: Axes) -> None:
        axes.plot(range(len(lengths)), padding, "o-", color=_FILL, markersize=4)
        axes.plot(range(len(lengths)), cut, "s--", color=_MARK, markersize=4)
        axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))

    return _svg(name, draw, "max_sequence_length", shares=True)


def _svg(name: str, draw: Callable[[Axes], object], xlabel: str, *, shares: bool = False) -> Plot:
    with rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=_INCHES)
        FigureCanvasSVG(figure)
        axes = figure.add_axes((0.13, 0.235, 0.85, 0.72))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        if not shares:
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_formatter(FuncFormatter(_axis_label))
        draw(axes)
        if not shares:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(xlabel, labelpad=2)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue().replace(b"</svg>", _DARK)
    return Plot(name, f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}")


def _axis_label(value: float, _: object) -> str:
    """Format an axis label in short form, such as 12k for 12,000."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
