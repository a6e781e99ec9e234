"""Reference for the fast writer: build rows token by token, with lists, by the tables of docs/rows.md."""

from __future__ import annotations

from typing import Any

from hdf5_writer.rows import RowLayout
from preprocess.samples import Sample

SLOT = object()


def sequence_of(sample: Sample, layout: RowLayout) -> tuple[list[Any], set[int]]:
    """Tokens of a sample, with `SLOT` for every image or dummy slot, and its supervised positions."""
    image_at = list(sample.image_at) if layout.image_start_idx is None else [layout.image_start_idx]
    sequence: list[Any] = []
    supervised: set[int] = set()
    for number, id_ in enumerate([*sample.ids.tolist(), None]):
        for _ in range(image_at.count(number)):
            sequence += [SLOT] * layout.num_patches
        if id_ is not None:
            if any(start <= number < end for start, end in sample.supervised):
                supervised.add(len(sequence))
            sequence.append(id_)
    return sequence, supervised - {0}


def fitted(sample: Sample, layout: RowLayout) -> tuple[list[Any], set[int], int] | None:
    """Sequence, supervised positions and images after truncation; None if nothing supervised remains."""
    sequence, supervised = sequence_of(sample, layout)
    slots, most = layout.num_patches, layout.max_sequence_length
    sequence = sequence[: most + 1] if len(sequence) > most + 1 else sequence
    if layout.image_start_idx is None:
        if len(sequence_of(sample, layout)[0]) > most + 1:
            runs = _runs(sequence_of(sample, layout)[0], slots)
            for start in runs:
                if start + slots > most:
                    sequence = sequence[:start]
                    break
        kept = [place for place in supervised if place < len(sequence)]
        if any(start > max(kept, default=-1) for start in _runs(sequence, slots)):
            sequence = sequence[: max(kept, default=-1) + 1]
    supervised = {place for place in supervised if place < len(sequence)}
    if not supervised:
        return None
    images = len(_runs(sequence, slots)) if sample.image_at else 0
    return sequence, supervised, images


def _runs(sequence: list[Any], slots: int) -> list[int]:
    """Start of each run of slots; adjacent images have separate runs."""
    starts = [place for place, token in enumerate(sequence) if token is SLOT]
    return starts[::slots]


def row_of(samples: list[Sample], layout: RowLayout) -> dict[str, list[int]]:
    """Arrays of one row that holds the given samples."""
    length, pad = layout.max_sequence_length, layout.pad_id
    row: dict[str, list[int]] = {"text_input_ids": [], "labels": [], "loss_mask": [], "key_padding_mask": []}
    for sample in samples:
        found = fitted(sample, layout)
        assert found is not None
        sequence, supervised, images = found
        ids = [pad if token is SLOT else token for token in sequence]
        hide = layout.image_start_idx is not None and not images
        row["text_input_ids"] += ids[:-1]
        row["labels"] += ids[1:]
        row["loss_mask"] += [int(place in supervised) for place in range(1, len(ids))]
        row["key_padding_mask"] += [int(hide and token is SLOT) for token in sequence[:-1]]
    padding = {"text_input_ids": pad, "labels": pad, "loss_mask": 0, "key_padding_mask": 1}
    return {name: values + [padding[name]] * (length - len(values)) for name, values in row.items()}
