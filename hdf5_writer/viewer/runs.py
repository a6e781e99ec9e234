"""Split a sample into runs of positions of the same kind, for display."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hdf5_writer.viewer.row import Row, RowImage, RowSample

Kind = Literal["context", "supervised", "image", "masked", "padding"]


@dataclass(frozen=True)
class Run:
    """Consecutive positions of the same kind.

    Positions are those of the row, extended by one for the last token of the sample, which is only a label: the token
    at position p is `text_input_ids[p]` and the label at p - 1; it is supervised if `loss_mask[p - 1]` is 1.

    Attributes:
        kind: "context" and "supervised" hold tokens; "image" the slots of an image, "masked" the dummy slots of a
            fixed text-only row, "padding" what follows the samples of a row.
        start: the first position.
        count: number of positions.
        ids: ids of the tokens; empty for the other kinds.
        image: the image of the slots; None for the other kinds.
        before: the previous token of the same text; None at the start of a sample and after an image.
        after_image: whether it directly follows image slots.
    """

    kind: Kind
    start: int
    count: int
    ids: tuple[int, ...] = ()
    image: RowImage | None = None
    before: int | None = None
    after_image: bool = False


def sample_runs(row: Row, sample: RowSample) -> list[Run]:
    """Return the runs of a sample in order; together they cover its positions and its last label."""
    start, end = sample.start, min(sample.start + sample.length, len(row.labels))
    ids = np.append(row.text_input_ids[start:end], row.labels[end - 1])
    supervised = np.append(0, row.loss_mask[start:end]).astype(bool)
    # At supervised positions, show the label: it is what the model is trained on.
    ids[1:][supervised[1:]] = row.labels[start:end][supervised[1:]]
    slots: list[Run] = [Run("image", image.start, image.slots, image=image) for image in sample.images]
    if sample.dummy_slots:
        slots = [Run("masked", *sample.dummy_slots)]
    runs: list[Run] = []
    at, before, after_image = start, None, False
    for run in [*slots, None]:
        if run is not None and not at <= run.start <= end - run.count:
            continue  # an invalid row; reported in its problems
        until = end + 1 if run is None else run.start
        some = _token_runs(ids[at - start : until - start], supervised[at - start : until - start], at)
        for ids_kind, first, tokens in some:
            runs.append(Run(ids_kind, first, len(tokens), tokens, before=before, after_image=after_image))
            before, after_image = tokens[-1], False
        if run is not None:
            runs.append(run)
            at = run.start + run.count
            if run.kind == "image":
                before, after_image = None, True
    return runs


def padding_run(row: Row) -> Run | None:
    """Return the padding after the samples; None in a full row."""
    count = len(row.text_input_ids) - row.used
    return Run("padding", row.used, count) if count else None


def _token_runs(
    ids: npt.NDArray[np.int32], supervised: npt.NDArray[np.bool_], start: int
) -> list[tuple[Kind, int, tuple[int, ...]]]:
    """Return (kind, first position, ids) of consecutive tokens that are all supervised or all unsupervised."""
    cuts = [0, *(np.flatnonzero(np.diff(supervised)) + 1).tolist(), len(ids)]
    return [
        ("supervised" if supervised[a] else "context", start + a, tuple(ids[a:b].tolist()))
        for a, b in itertools.pairwise(cuts)
        if a < b
    ]
