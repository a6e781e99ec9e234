"""A row → runs of positions of one kind, as the viewer shows them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hdf5_writer.viewer.dataset import Row

Kind = Literal["context", "supervised", "image", "masked", "padding"]


@dataclass(frozen=True)
class Run:
    """Neighbouring positions of one kind.

    Positions are those of the full sequence: the token at position p stands in `text_input_ids[p]`, is the label at
    p - 1, and is supervised when `loss_mask[p - 1]` is 1. The last one is a label only.

    Attributes:
        kind: "context" and "supervised" hold tokens; "image" the slots of an image, "masked" the dummy slots of a
            text-only row, "padding" what follows the row.
        start: the first position.
        count: positions.
        ids: of the tokens; empty for the other kinds.
        after_image: the text starts anew, behind image slots.
    """

    kind: Kind
    start: int
    count: int
    ids: tuple[int, ...] = ()
    after_image: bool = False


def row_runs(row: Row) -> list[Run]:
    """The runs of a row, in order; together they cover the row and its last label."""
    used, width = row.used, len(row.text_input_ids)
    ids = np.append(row.text_input_ids[:used], row.labels[used - 1])
    supervised = np.append(0, row.loss_mask[:used]).astype(bool)
    # Where the loss is, the label is what counts.
    ids[1:][supervised[1:]] = row.labels[:used][supervised[1:]]
    kind: Kind = "image" if row.image_path is not None else "masked"
    runs: list[Run] = []
    end = 0
    for start, count in row.slots:
        runs += _token_runs(ids, supervised, end, start, after_image=end > 0 and kind == "image")
        runs.append(Run(kind, start, count))
        end = start + count
    runs += _token_runs(ids, supervised, end, used + 1, after_image=end > 0 and kind == "image")
    if width > used:
        runs.append(Run("padding", used, width - used))
    return runs


def _token_runs(
    ids: npt.NDArray[np.int32], supervised: npt.NDArray[np.bool_], start: int, end: int, after_image: bool = False
) -> list[Run]:
    runs = []
    cuts = [start, *(np.flatnonzero(np.diff(supervised[start:end])) + start + 1).tolist(), end]
    for a, b in itertools.pairwise(cuts):
        if a < b:
            kind: Kind = "supervised" if supervised[a] else "context"
            runs.append(Run(kind, a, b - a, tuple(ids[a:b].tolist()), after_image and a == start))
    return runs
