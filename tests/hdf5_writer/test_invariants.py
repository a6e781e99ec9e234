"""Verification finds edits of free rows in real output. Fixed rows: test_verify.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import ConfigMaker, create, turn_pair, write_jsonl

from hdf5_writer.layout import OutputLayout
from hdf5_writer.tables import read_tables
from hdf5_writer.verify import verify_dataset

Values = np.ndarray[Any, Any]


@pytest.fixture
def out(make_config: ConfigMaker, tmp_path: Path) -> OutputLayout:
    """A shard of one row with three samples: one image, text only, two images of 16 slots each."""
    records = [
        {"image": "shapes/0001.png", "conversations": turn_pair("<image>\nWhat?", "A shape.")},
        {"conversations": turn_pair("Question?", "Answer.")},
        {
            "images": ["shapes/0001.png", "shapes/0002.png"],
            "conversations": turn_pair("<image>\nOne?", "Yes.") + turn_pair("<image>\nTwo?", "No."),
        },
    ]
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    config = make_config(
        processor__packing="best_fit", dataset__max_images=2, dataset__image_size=56, setup__shuffle=False
    )
    create(config)
    layout = OutputLayout(tmp_path / "out")
    assert json.loads(layout.data_params.read_text())["rows"] == 1
    assert verify_dataset(layout.root).problems == []
    return layout


def edit(out: OutputLayout, name: str, change: Callable[[Values, dict[str, Values]], None]) -> list[str]:
    """Change a dataset and its tables through h5py; return what verification reports about rows."""
    with h5py.File(out.shard(0, 1), "r+") as file:
        tables = read_tables(file)
        values = file[name][:]
        change(values, tables)
        file[name][:] = values
    return [problem for problem in verify_dataset(out.root).problems if "sha256" not in problem]


def at(place: Callable[[dict[str, Values]], Any], value: Any) -> Callable[[Values, dict[str, Values]], None]:
    def change(values: Values, tables: dict[str, Values]) -> None:
        values[place(tables)] = value

    return change


def start(image: int, offset: int = 0) -> Callable[[dict[str, Values]], tuple[int, int]]:
    return lambda tables: (0, int(tables["images/start"][image]) + offset)


def sample(number: int, offset: int = 0) -> Callable[[dict[str, Values]], tuple[int, int]]:
    return lambda tables: (0, int(tables["samples/start"][number]) + offset)


EDITS: list[tuple[str, Callable[[Values, dict[str, Values]], None], str]] = [
    ("samples/start", at(lambda tables: 1, 0), "samples overlap, leave a gap or do not fit"),
    ("samples/start", lambda values, tables: values.__iadd__(1), "samples overlap, leave a gap or do not fit"),
    (
        "samples/length",
        lambda values, tables: values.__setitem__(2, values[2] - 1),
        "key_padding_mask does not hide exactly the padding",
    ),
    ("samples/length", at(lambda tables: 2, 999), "samples overlap, leave a gap or do not fit"),
    ("samples/length", at(lambda tables: 0, 0), "samples overlap, leave a gap or do not fit"),
    (
        "samples/offsets",
        at(lambda tables: 1, 2),
        "samples/offsets does not increase from 0 to 3, the number of samples",
    ),
    ("images/offsets", at(lambda tables: 0, 1), "images/offsets does not increase from 0 to 3, the number of images"),
    ("images/start", at(lambda tables: 1, 0), "16 slots of an image do not lie inside one sample"),
    ("images/start", lambda values, tables: values.__setitem__(2, values[1] + 15), "16 slots of an image do not"),
    (
        "images/start",
        lambda values, tables: values.__setitem__(1, tables["samples/start"][2] - 8),
        "16 slots of an image",
    ),
    ("images/start", lambda values, tables: values.__setitem__(2, values[2] + 1), "an image slot does not hold pad_id"),
    ("images/slots", at(lambda tables: 1, 15), "16 slots of an image do not lie inside one sample"),
    ("images/path", at(lambda tables: 1, b""), "an image has no path"),
    ("text_input_ids", at(start(2, 3), 5), "an image slot does not hold pad_id"),
    ("text_input_ids", at(sample(1), 5), "a sample does not begin with BOS"),
    ("labels", at(sample(1, -1), 0), "nothing"),
    ("labels", at(sample(1, 1), 5), "labels is not text_input_ids one position later"),
    ("loss_mask", at(start(2, -1), 1), "an image slot, or in a fixed row the text before it, is supervised"),
    ("loss_mask", at(start(2, 14), 1), "an image slot, or in a fixed row the text before it, is supervised"),
    ("loss_mask", at(start(2, 15), 1), "nothing"),
    ("loss_mask", lambda values, tables: values[0, : tables["samples/start"][1]].fill(0), "nothing is supervised in a"),
    ("key_padding_mask", at(start(0, 3), 1), "key_padding_mask does not hide exactly the padding"),
    ("key_padding_mask", at(sample(2), 1), "key_padding_mask does not hide exactly the padding"),
    ("samples/source_line", at(lambda tables: 0, 2), "do not match the plan"),
]


@pytest.mark.parametrize(("name", "change", "found"), EDITS, ids=[f"{i}-{edited[0]}" for i, edited in enumerate(EDITS)])
def test_an_invalid_free_row_is_found_and_named(
    out: OutputLayout, name: str, change: Callable[[Values, dict[str, Values]], None], found: str
) -> None:
    problems = edit(out, name, change)
    if found == "nothing":  # the last label of a sample, and the label after a slot, may have any value
        assert problems == []
    else:
        assert any(found in problem for problem in problems), problems


def test_packed_samples_may_have_any_order_but_must_be_complete(out: OutputLayout) -> None:
    def swap(values: Values, tables: dict[str, Values]) -> None:
        values[:] = values[::-1]

    assert edit(out, "samples/source_line", swap) == []
