"""`rows.html`: rows with tokens, masks and images, as they are on disk."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hdf5_writer.pages import json_for_script, render_page
from hdf5_writer.publish import publish
from hdf5_writer.viewer_compare import Comparison, Spans
from hdf5_writer.viewer_dataset import InspectedDataset, Row
from hdf5_writer.viewer_frames import ChatFrames
from hdf5_writer.viewer_runs import Run, row_runs
from hdf5_writer.viewer_spelling import Speller
from hdf5_writer.viewer_thumbnails import Thumbnail, Thumbnails


@dataclass(frozen=True)
class Side:
    """Everything that is needed to show rows of one dataset; a comparison has two."""

    dataset: InspectedDataset
    speller: Speller
    thumbnails: Thumbnails

    @property
    def frames(self) -> ChatFrames:
        """The words of its template."""
        return ChatFrames(self.dataset.params.config.dataset.system_prompt_style)


class BubblePart(NamedTuple):
    """A stretch of decoded text; `style` is "text", "frame" (the template's words) or "special" (a token)."""

    style: str
    text: str


@dataclass(frozen=True)
class RunView:
    """A run as the page shows it."""

    kind: str
    start: int
    count: int
    ids: str
    parts: list[BubblePart]
    thumbnail: Thumbnail | None


@dataclass(frozen=True)
class RowView:
    """A row as the page shows it."""

    row: Row
    side: int
    supervised: int
    runs: list[RunView]
    changed: str


def write_rows_page(side: Side, rows: Iterable[Row], selection: str, output: Path) -> None:
    """Write the page of some rows.

    Args:
        side: their dataset.
        rows: the rows, few enough to be looked at.
        selection: which they are, in words.
        output: the page.

    Raises:
        OSError: it cannot be written.
    """
    pieces: list[dict[int, str]] = [{}]
    views = [_view(side, row, 0, pieces) for row in rows]
    _write(output, pieces, sides=[side], selection=selection, rows=views, pairs=[], comparison=None)


def write_comparison_page(sides: tuple[Side, Side], comparison: Comparison, selection: str, output: Path) -> None:
    """Write the page of the records that differ, the two datasets side by side."""
    pieces: list[dict[int, str]] = [{}, {}]
    pairs = [
        (_view(sides[0], pair.row, 0, pieces, pair.changed), _view(sides[1], pair.other, 1, pieces, pair.other_changed))
        for pair in comparison.pairs
    ]
    _write(output, pieces, sides=list(sides), selection=selection, rows=[], pairs=pairs, comparison=comparison)


def _write(output: Path, pieces: list[dict[int, str]], **values: Any) -> None:
    tables = json_for_script([{str(id_): piece for id_, piece in sorted(table.items())} for table in pieces])
    publish(output, [render_page("rows.html.j2", script="rows.js", pieces=tables, **values)])


def _view(side: Side, row: Row, number: int, pieces: list[dict[int, str]], changed: Spans = ()) -> RowView:
    params = side.dataset.params
    runs = row_runs(row, params.image_start_idx, params.num_patches)
    frames, table = side.frames, pieces[number]
    for id_ in set(itertools.chain.from_iterable(run.ids for run in runs)) - table.keys():
        table[id_] = side.speller.piece(id_)
    return RowView(
        row=row,
        side=number,
        supervised=int(row.loss_mask.sum()),
        runs=[_run_view(side, row, run, frames) for run in runs],
        changed=" ".join(f"{start}-{end}" for start, end in changed),
    )


def _run_view(side: Side, row: Row, run: Run, frames: ChatFrames) -> RunView:
    thumbnail = side.thumbnails.of(row.image_path) if run.kind == "image" and row.image_path is not None else None
    return RunView(run.kind, run.start, run.count, " ".join(map(str, run.ids)), _bubble(side, run, frames), thumbnail)


def _bubble(side: Side, run: Run, frames: ChatFrames) -> list[BubblePart]:
    found: list[BubblePart] = []
    for text, is_special in side.speller.parts(run.ids, run.start == 0 or run.after_image):
        if is_special:
            found.append(BubblePart("special", text))
        elif run.kind == "supervised":
            # The blank before an answer belongs to its first token, and is no text to read.
            found.append(BubblePart("text", text.removeprefix(" ")))
        else:
            head, question, tail = frames.cut(text)
            found += [BubblePart("frame", head), BubblePart("text", question), BubblePart("frame", tail)]
    return [part for part in found if part.text]
