"""Render `rows.html`: rows with their tokens, masks and images as stored."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdf5_writer.pages import json_for_script, render_page
from hdf5_writer.publish import publish
from hdf5_writer.viewer.chat import SampleView, Side, ids_of, sample_view
from hdf5_writer.viewer.compare import Comparison, Found
from hdf5_writer.viewer.row import Row
from hdf5_writer.viewer.runs import Run, padding_run

_NOTHING: Mapping[int, Collection[int]] = {}


@dataclass(frozen=True)
class RowView:
    """A row as the page shows it.

    Attributes:
        row: the row.
        samples: all samples; the padding of a row with one sample is shown with that sample.
        closed: numbers of the samples that are collapsed initially.
        padding: padding of a row with several samples.
    """

    row: Row
    samples: list[SampleView]
    closed: frozenset[int]
    padding: Run | None

    @property
    def supervised(self) -> int:
        """Supervised tokens of all samples."""
        return sum(view.supervised for view in self.samples)


@dataclass(frozen=True)
class ComparedView:
    """A sample of a comparison; `changed` holds "START-END" ranges of the positions whose tokens differ."""

    row: Row
    view: SampleView
    changed: str


def rows_page(
    side: Side, rows: Iterable[Row], selection: str, selected: Mapping[int, Collection[int]] = _NOTHING
) -> bytes:
    """Render the page of some rows.

    Args:
        side: their dataset.
        rows: the rows.
        selection: description of the selection.
        selected: row number → numbers of the selected samples; the other samples of that row are collapsed.
    """
    values = rows_values(side, rows, selected)
    return render_page("rows.html.j2", "rows.js", **values, selection=selection, pairs=[], comparison=None)


def rows_values(side: Side, rows: Iterable[Row], selected: Mapping[int, Collection[int]] = _NOTHING) -> dict[str, Any]:
    """Return the template variables that show rows of one dataset: `sides`, `rows` and `pieces`."""
    views = []
    for row in rows:
        padding, several = padding_run(row), len(row.samples) > 1
        samples = [sample_view(side, row, sample, None if several else padding) for sample in row.samples]
        asked = selected.get(row.number)
        closed = frozenset(range(len(samples))).difference(asked) if asked else frozenset[int]()
        views.append(RowView(row, samples, closed, padding if several else None))
    shown = [view for row in views for view in row.samples]
    return {"sides": [side], "rows": views, "pieces": json_for_script([_pieces(side, shown)])}


def write_comparison_page(sides: tuple[Side, Side], comparison: Comparison, selection: str, output: Path) -> None:
    """Write the page that shows differing samples of two datasets side by side."""
    pairs = [(_compared(sides[0], pair.mine), _compared(sides[1], pair.other)) for pair in comparison.pairs]
    pieces = [_pieces(side, (pair[number].view for pair in pairs)) for number, side in enumerate(sides)]
    page = render_page(
        "rows.html.j2",
        "rows.js",
        sides=list(sides),
        selection=selection,
        rows=[],
        pairs=pairs,
        comparison=comparison,
        pieces=json_for_script(pieces),
    )
    publish(output, [page])


def _compared(side: Side, found: Found) -> ComparedView:
    padding = padding_run(found.row) if len(found.row.samples) == 1 else None
    changed = " ".join(f"{start}-{end}" for start, end in found.changed)
    return ComparedView(found.row, sample_view(side, found.row, found.sample, padding), changed)


def _pieces(side: Side, views: Iterable[SampleView]) -> dict[str, str]:
    ids = set[int]().union(*map(ids_of, views))
    return {str(id_): side.decoder.piece(id_) for id_ in sorted(ids)}
