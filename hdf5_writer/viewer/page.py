"""`rows.html`: rows with tokens, masks and images, as they are on disk."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from hdf5_writer.pages import json_for_script, render_page
from hdf5_writer.publish import publish
from hdf5_writer.viewer.compare import Comparison, Spans
from hdf5_writer.viewer.dataset import InspectedDataset, Row
from hdf5_writer.viewer.decoding import Speller, load_speller
from hdf5_writer.viewer.frames import ChatFrames
from hdf5_writer.viewer.runs import Run, row_runs
from hdf5_writer.viewer.thumbnails import Thumbnail, Thumbnails
from preprocess.square_images import AspectRatio


@dataclass(frozen=True)
class Side:
    """Everything that is needed to show rows of one dataset; a comparison has two."""

    dataset: InspectedDataset
    speller: Speller
    thumbnails: Thumbnails

    @functools.cached_property
    def frames(self) -> ChatFrames:
        """The words of its template."""
        return ChatFrames(self.dataset.params.config.dataset.system_prompt_style)


def side_of(
    dataset: InspectedDataset,
    *,
    tokenizer: str | None = None,
    image_dir: Path | None = None,
    aspect_ratio: AspectRatio = "square",
) -> Side:
    """A dataset with its tokenizer and images, where the run found them unless it is said where they are now."""
    found, named = dataset.image_dir_and_tokenizer()
    speller = load_speller(dataset.params, tokenizer or named)
    return Side(dataset, speller, Thumbnails(image_dir or found, aspect_ratio))


class BubblePart(NamedTuple):
    """A stretch of decoded text; `style` is "text", "frame" (the template's words) or "special" (a token)."""

    style: str
    text: str


@dataclass(frozen=True)
class Block:
    """Positions of one kind; `ids` of tokens, "" for slots and padding; `is_opening` for the system prompt's."""

    kind: str
    start: int
    count: int
    ids: str
    is_opening: bool = False


@dataclass
class Turn:
    """What stands side by side on the page: all context up to an answer, or an answer.

    Attributes:
        kind: "context" or "supervised".
        parts: the text of the chat, without the opening; empty where there is no tokenizer.
        blocks: its positions.
        thumbnail: the picture in the context, if any.
    """

    kind: str
    parts: list[BubblePart] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    thumbnail: Thumbnail | None = None


@dataclass(frozen=True)
class RowView:
    """A row as the page shows it."""

    row: Row
    side: int
    supervised: int
    turns: list[Turn]
    changed: str


def rows_page(side: Side, rows: Iterable[Row], selection: str) -> bytes:
    """The page of some rows.

    Args:
        side: their dataset.
        rows: the rows, few enough to be looked at.
        selection: which they are, in words.
    """
    values = rows_values(side, rows)
    return render_page("rows.html.j2", "rows.js", **values, selection=selection, pairs=[], comparison=None)


def write_rows_page(side: Side, rows: Iterable[Row], selection: str, output: Path) -> None:
    """Write the `rows_page`.

    Raises:
        OSError: it cannot be written.
    """
    publish(output, [rows_page(side, rows, selection)])


def rows_values(side: Side, rows: Iterable[Row]) -> dict[str, Any]:
    """What a page needs to show rows of one dataset: `sides`, `rows` and `pieces`."""
    pieces: list[dict[int, str]] = [{}]
    views = [_view(side, row, 0, pieces) for row in rows]
    return {"sides": [side], "rows": views, "pieces": _tables(pieces)}


def write_comparison_page(sides: tuple[Side, Side], comparison: Comparison, selection: str, output: Path) -> None:
    """Write the page of the records that differ, the two datasets side by side."""
    pieces: list[dict[int, str]] = [{}, {}]
    pairs = [
        (_view(sides[0], pair.row, 0, pieces, pair.changed), _view(sides[1], pair.other, 1, pieces, pair.other_changed))
        for pair in comparison.pairs
    ]
    page = render_page(
        "rows.html.j2",
        "rows.js",
        sides=list(sides),
        selection=selection,
        rows=[],
        pairs=pairs,
        comparison=comparison,
        pieces=_tables(pieces),
    )
    publish(output, [page])


def _tables(pieces: list[dict[int, str]]) -> Markup:
    return json_for_script([{str(id_): piece for id_, piece in sorted(table.items())} for table in pieces])


def _view(side: Side, row: Row, number: int, pieces: list[dict[int, str]], changed: Spans = ()) -> RowView:
    runs = row_runs(row)
    table = pieces[number]
    for id_ in set(itertools.chain.from_iterable(run.ids for run in runs)) - table.keys():
        table[id_] = side.speller.piece(id_)
    return RowView(
        row=row,
        side=number,
        supervised=int(row.loss_mask.sum()),
        turns=[_turn(side, row, some) for some in _by_turn(runs)],
        changed=" ".join(f"{start}-{end}" for start, end in changed),
    )


def _by_turn(runs: list[Run]) -> list[list[Run]]:
    """All context up to an answer, or an answer; padding goes with what stands before it."""
    turns: list[list[Run]] = []
    for run in runs:
        if not turns or (run.kind != "padding" and "supervised" in (run.kind, turns[-1][0].kind)):
            turns.append([])
        turns[-1].append(run)
    return turns


def _turn(side: Side, row: Row, runs: list[Run]) -> Turn:
    turn = Turn("supervised" if runs[0].kind == "supervised" else "context")
    text: tuple[int, ...] = ()  # goes on behind the dummy slots of a text-only row, not behind an image
    starts_text = False
    for run in runs:
        ids = run.ids
        opening = side.frames.opening_tokens(ids, side.speller) if run.start == 0 else 0
        if opening:
            turn.blocks.append(Block(run.kind, 0, opening, _listed(ids[:opening]), is_opening=True))
            ids = ids[opening:]
        if run.count > opening:
            turn.blocks.append(Block(run.kind, run.start + opening, run.count - opening, _listed(ids)))
        if run.kind == "image" and row.image_path is not None:
            turn.thumbnail = side.thumbnails.of(row.image_path)
            turn.parts += _parts(side, turn.kind, text, starts_text)
            text = ()
        if not text:
            starts_text = (run.start == 0 and not opening) or run.after_image
        text += ids
    turn.parts += _parts(side, turn.kind, text, starts_text)
    return turn


def _listed(ids: tuple[int, ...]) -> str:
    return " ".join(map(str, ids))


def _parts(side: Side, kind: str, ids: tuple[int, ...], starts_text: bool) -> list[BubblePart]:
    found: list[BubblePart] = []
    for text, is_special in side.speller.parts(ids, starts_text):
        if is_special:
            found.append(BubblePart("special", text))
        elif kind == "supervised":
            # The blank before an answer belongs to its first token, and is no text to read.
            found.append(BubblePart("text", text.removeprefix(" ")))
        else:
            head, question, tail = side.frames.cut(text)
            found += [BubblePart("frame", head), BubblePart("text", question), BubblePart("frame", tail)]
    return [part for part in found if part.text.strip(" ")]
