"""Verification finds edits of real output."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import ConfigMaker, create, turn_pair, write_jsonl

from hdf5_writer.layout import OutputLayout
from hdf5_writer.verify import verify_dataset
from hdf5_writer.verify_hdf5_dataset import main


@pytest.fixture
def out(make_config: ConfigMaker, tmp_path: Path) -> OutputLayout:
    records: list[Any] = [{"conversations": turn_pair(f"Question {i}?", f"Answer {i}.")} for i in range(8)]
    records += [{"image": "shapes/0001.png", "conversations": turn_pair("<image>\nWhat?", "A shape.")}, {}]
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    create(make_config(setup__samples_per_shard=5, setup__shuffle=False))
    return OutputLayout(tmp_path / "out")


def problems(out: OutputLayout) -> list[str]:
    return verify_dataset(out.root).problems


def edit(path: Path, name: str, change: Callable[[np.ndarray[Any, Any]], None]) -> None:
    """Change a dataset through h5py."""
    with h5py.File(path, "r+") as file:
        values = file[name][:]
        change(values)
        file[name][:] = values


def put(*at: Any) -> Callable[[np.ndarray[Any, Any]], None]:
    *index, value = at

    def change(values: np.ndarray[Any, Any]) -> None:
        values[tuple(index)] = value

    return change


def test_an_undamaged_dataset_passes(out: OutputLayout) -> None:
    summary = verify_dataset(out.root)
    assert (summary.problems, summary.notes, summary.shards, summary.rows) == ([], [], 2, 9)


@pytest.mark.slow
def test_every_flipped_byte_of_a_shard_is_detected(out: OutputLayout) -> None:
    path = out.shard(0, 2)
    data = path.read_bytes()
    for at in np.linspace(0, len(data) - 1, 60).astype(int).tolist():
        damaged = bytearray(data)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        assert any(f"{path}: its sha256" in problem for problem in problems(out)), at


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_a_truncated_file_is_found(out: OutputLayout, size: int) -> None:
    path = out.shard(1, 2)
    path.write_bytes(path.read_bytes()[:size])
    assert any(f"{path}: has " in problem for problem in problems(out))


def test_a_file_without_read_permission_is_one_sentence(
    out: OutputLayout, forbid: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    forbid(out.shard(0, 2))
    words = "cannot be read (Permission denied); make it readable"
    assert problems(out) == [f"{out.shard(0, 2)}: {words}"]
    forbid(out.plan)
    assert main([str(out.root)]) == 1
    assert capsys.readouterr().err == f"verify_hdf5_dataset: {out.plan}: {words}\n"
    forbid(out.root.parent)
    assert main([str(out.root)]) == 1
    assert capsys.readouterr().err == f"verify_hdf5_dataset: {out.root}: {words}\n"


def test_a_missing_shard_is_found(out: OutputLayout) -> None:
    out.shard(1, 2).unlink()
    assert problems(out) == [f"{out.shard(1, 2)}: is missing"]


def test_a_foreign_shard_is_found(out: OutputLayout) -> None:
    shutil.copy(out.shard(0, 2), out.shard(0, 3))
    assert problems(out) == [f"{out.shard(0, 3)}: is not a shard of this dataset"]


def test_two_swapped_shards_are_found(out: OutputLayout) -> None:
    first, second = out.shard(0, 2).read_bytes(), out.shard(1, 2).read_bytes()
    out.shard(0, 2).write_bytes(second)
    out.shard(1, 2).write_bytes(first)
    assert any("source_line" in problem or "bytes" in problem or "sha256" in problem for problem in problems(out))


# Row 3 of shard 1 is the one with the image: its first slot is at position 33, 64 slots follow.
EDITS: list[tuple[str, Callable[[np.ndarray[Any, Any]], None], str]] = [
    ("text_input_ids", put(0, 5, 1800), "text_input_ids has an id outside the vocabulary"),
    ("text_input_ids", put(0, 5, -1), "text_input_ids has an id outside the vocabulary"),
    ("labels", put(0, 5, 99999), "labels has an id outside the vocabulary"),
    ("text_input_ids", put(0, 5, 77), "labels is not text_input_ids one position later"),
    ("labels", put(0, 5, 77), "labels is not text_input_ids one position later"),
    ("text_input_ids", put(0, 0, 5), "a sample does not begin with BOS"),
    ("text_input_ids", put(3, 40, 5), "an image slot does not hold pad_id"),
    ("text_input_ids", put(0, -1, 5), "padding does not hold pad_id"),
    ("labels", put(0, -1, 5), "padding does not hold pad_id"),
    ("loss_mask", put(0, 110, 2), "loss_mask has a value other than 0 and 1"),
    ("loss_mask", put(0, -1, 1), "padding is supervised"),
    ("loss_mask", put(0, 3, 1), "an image slot, or in a fixed row the text before it, is supervised"),
    ("loss_mask", put(0, 33 + 63, 1), "an image slot, or in a fixed row the text before it, is supervised"),
    ("loss_mask", put(0, slice(None), 0), "nothing is supervised in a sample"),
    ("key_padding_mask", put(0, 3, 1), "key_padding_mask does not hide exactly"),
    ("key_padding_mask", put(0, 40, 0), "key_padding_mask does not hide exactly"),
    ("key_padding_mask", put(3, 40, 1), "key_padding_mask does not hide exactly"),
    ("samples/length", put(0, 9999), "samples overlap, leave a gap or do not fit into the row"),
    ("samples/length", put(0, 0), "samples overlap, leave a gap or do not fit into the row"),
    ("samples/length", put(0, 60), "the sample is shorter than its image slots"),
    ("samples/start", put(0, 1), "samples overlap, leave a gap or do not fit into the row"),
    ("samples/offsets", put(1, 0), "samples/offsets has a row without a sample"),
    ("samples/offsets", put(1, 9), "samples/offsets does not increase from 0 to"),
    ("images/offsets", put(-1, 2), "images/offsets does not increase from 0 to"),
    ("images/offsets", put(slice(1, 4), 1), "key_padding_mask does not hide exactly"),
    ("images/start", put(0, 34), "the image is not at image_start_idx 33"),
    ("images/start", put(0, 9999), "slots of an image do not lie inside one sample"),
    ("images/slots", put(0, 63), "slots of an image do not lie inside one sample"),
    ("images/path", put(0, b""), "an image has no path"),
    ("images/path", put(0, b"\xff.png"), "images/path is not UTF-8"),
    ("samples/source_line", put(0, 1), "samples/source_file and samples/source_line do not match"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "found"), EDITS, ids=[f"{number}-{edited[0]}" for number, edited in enumerate(EDITS)]
)
def test_a_broken_row_is_found_and_named(
    out: OutputLayout, name: str, change: Callable[[np.ndarray[Any, Any]], None], found: str
) -> None:
    edit(out.shard(1, 2), name, change)
    assert any(found in problem for problem in problems(out))


@pytest.mark.parametrize("name", ["image_start_idx", "schema_version", "tokenizer_digest", "plan_digest", "n_examples"])
def test_a_changed_attribute_is_found(out: OutputLayout, name: str) -> None:
    with h5py.File(out.shard(0, 2), "r+") as file:
        file.attrs[name] = "3.0" if name == "schema_version" else 1
    assert any(name.replace("_", " ") in problem.replace("_", " ") for problem in problems(out))


@pytest.mark.slow
def test_a_missing_or_misshapen_dataset_is_found(out: OutputLayout) -> None:
    with h5py.File(out.shard(0, 2), "r+") as file:
        del file["loss_mask"]
    with h5py.File(out.shard(1, 2), "r+") as file:
        values = file["labels"][:-1]
        del file["labels"]
        file["labels"] = values
    assert any("dataset loss_mask is missing" in problem for problem in problems(out))
    assert any("labels has the shape" in problem for problem in problems(out))


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["data_params.json", "rejects.jsonl", ".work/plan.json", ".work/offsets.i64", ".work/receipts/00001.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_to_any_other_file_is_found(out: OutputLayout, path: str, damage: str) -> None:
    file = out.root / path
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data if damage == "flip" else data[:-1])
    named = file.parent if path.endswith("00001.json") and damage == "remove" else file
    assert any(str(named) in problem for problem in problems(out))


def test_no_shard_is_reported_as_foreign_without_a_list_of_shards(out: OutputLayout) -> None:
    shutil.rmtree(out.work)
    out.data_params.write_text("[")
    [problem] = problems(out)
    assert problem.startswith(f"{out.data_params}: is damaged: no JSON document with a checksum; ")


def test_shards_without_a_work_folder_are_checked_against_data_params(out: OutputLayout) -> None:
    shutil.rmtree(out.work)
    summary = verify_dataset(out.root)
    assert summary.problems == []
    assert len(summary.notes) == 1
    out.shard(0, 2).unlink()
    assert problems(out) == [f"{out.shard(0, 2)}: is missing"]


@pytest.mark.slow
def test_the_command_prints_its_findings(out: OutputLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(out.root)]) == 0
    assert "2 shards, 9 rows: every check passed" in capsys.readouterr().out
    out.shard(0, 2).unlink()
    assert main([str(out.root)]) == 1
    stderr = capsys.readouterr().err
    assert f"{out.shard(0, 2)}: is missing" in stderr
    assert ": 1 problem found; make unreadable files readable, remove damaged" in stderr
    assert main([str(out.root / "nope")]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.slow
def test_counts_that_do_not_add_up_are_found(out: OutputLayout) -> None:
    from hdf5_writer.publish import seal, unseal

    receipt = unseal(out.receipt(1))
    receipt["rejects"] = []
    out.receipt(1).write_bytes(seal(receipt))
    assert any("do not add up" in problem for problem in problems(out))
    params = json.loads(out.data_params.read_text())
    assert params["counts"]["rejected"] == 1
