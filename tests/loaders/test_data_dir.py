"""Which folders are accepted, and the messages for those that are refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("torch", reason="the loaders need torch")

from written import first, second

from hdf5_writer.publish import seal
from hdf5_writer.verify import verify_dataset
from hdf5_writer.viewer.dataset import InspectedDataset
from loaders import DataDirError, LlavaH5Dataset, ShardError, create_dataloader
from loaders.data_dir import read_data_dir
from preprocess.config import ConfigError


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(first().root, tmp_path / "copied"))


def change_params(root: Path, **changes: Any) -> None:
    """Rewrite `data_params.json` with a correct checksum."""
    path = root / "data_params.json"
    params = {**json.loads(path.read_bytes()), **changes}
    del params["checksum"]
    path.write_bytes(seal(params, indent=True))


@pytest.mark.slow
def test_a_dataset_written_by_the_main_job_is_read() -> None:
    params = json.loads((first().root / "data_params.json").read_bytes())
    data_dir = read_data_dir(first().root)
    assert data_dir.rows == params["counts"]["written"] == 300
    assert data_dir.image_start_idx == params["image_start_idx"]
    assert data_dir.tokenizer_digest == params["tokenizer"]["digest"]
    assert data_dir.inputs == ("first.jsonl",)
    assert [shard.rows for shard in data_dir.shards] == [70, 70, 70, 70, 20]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="no such folder"):
        read_data_dir(tmp_path / "nowhere")


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match=r"holds no data_params.json"):
        read_data_dir(tmp_path)


def test_an_unfinished_dataset_is_refused(copied: Path) -> None:
    (copied / "data_params.json").unlink()
    with pytest.raises(DataDirError, match=r"holds shards but no data_params.json, so it is not a finished dataset"):
        read_data_dir(copied)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"not JSON", b'{"checksum": 1}'])
def test_damaged_parameters_are_refused(copied: Path, data: bytes) -> None:
    (copied / "data_params.json").write_bytes(data)
    with pytest.raises(DataDirError, match=r"data_params.json: (is damaged|was changed)"):
        read_data_dir(copied)


def test_parameters_edited_by_hand_are_refused(copied: Path) -> None:
    path = copied / "data_params.json"
    path.write_bytes(path.read_bytes().replace(b'"rows": 70', b'"rows": 71'))
    with pytest.raises(DataDirError, match="is damaged: its content does not have the checksum"):
        read_data_dir(copied)


@pytest.mark.parametrize(
    ("version", "advice"), [("3.0", "upgrade"), ("1.0", "write the dataset again"), (None, "not written")]
)
def test_another_major_version_is_refused(copied: Path, version: str | None, advice: str) -> None:
    change_params(copied, schema_version=version)
    with pytest.raises(DataDirError, match=advice):
        read_data_dir(copied)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_sequence_length", 512),
        (("num_patches", "image_size"), (144, 168)),
        ("image_start_idx", 1),
        ("pad_id", 5),
        ("tokenizer", {"name": "other", "digest": "0" * 64}),
    ],
)
def test_a_data_dir_that_differs_from_the_others_is_named(
    copied: Path, name: str | tuple[str, str], value: Any
) -> None:
    change_params(copied, **({name: value} if isinstance(name, str) else dict(zip(name, value, strict=True))))
    shown = "tokenizer_digest" if name == "tokenizer" else name if isinstance(name, str) else name[0]
    with pytest.raises(DataDirError, match=rf"{copied}: has {shown} .*, but {second().root} has"):
        create_dataloader([second().root, copied], batch_size=4)
    with pytest.raises(DataDirError, match=f"has {shown}"):
        create_dataloader(mixture=[(second().root, 1), (copied, 1)], batch_size=4)
    create_dataloader(second().root, batch_size=4)


def test_data_dirs_of_different_minor_versions_can_be_combined(copied: Path) -> None:
    change_params(copied, schema_version="2.9")
    assert len(create_dataloader([second().root, copied], batch_size=4).dataset) == 400


def test_a_shard_name_outside_the_folder_is_refused(copied: Path) -> None:
    shards = json.loads((copied / "data_params.json").read_bytes())["shards"]
    shards[0]["name"] = "../../etc/passwd"
    change_params(copied, shards=shards)
    with pytest.raises(DataDirError, match=r"shards.0.name is .*etc/passwd.*, expected .examples-00000-of-00005.h5"):
        read_data_dir(copied)


def forged_documents() -> list[tuple[str, Any]]:
    """Pairs (key, value) that no run writes, for every key that a reader relies on."""
    wrong: list[tuple[str, Any]] = [("shards", [{}]), ("shards", "text"), ("rows", "text"), ("counts", [])]
    keys = "image_start_idx num_patches image_size patch_size max_sequence_length pad_id bos_id eos_id vocab_size"
    wrong += [(key, value) for key in keys.split() for value in (None, "text", -5, 1.5, 2**40, [], True)]
    keys = "tokenizer config plan_digest inputs counts tokens lengths rejects shards"
    return wrong + [(key, value) for key in keys.split() for value in (None, 7, {"a": 1})]


@pytest.mark.slow
def test_loader_verify_and_viewer_refuse_a_forged_document_in_one_sentence(copied: Path) -> None:
    whole = (copied / "data_params.json").read_bytes()
    tried = 0
    for key, value in forged_documents():
        if key == "rows":
            shards = json.loads(whole)["shards"]
            shards[0]["rows"] = value
            change_params(copied, shards=shards)
        else:
            change_params(copied, **{key: value})
        with pytest.raises(DataDirError) as refused:
            read_data_dir(copied)
        assert str(copied / "data_params.json") in str(refused.value), (key, value)
        assert "\n" not in str(refused.value)
        assert str(refused.value) in verify_dataset(copied).problems
        with pytest.raises(ConfigError):
            InspectedDataset(copied)
        (copied / "data_params.json").write_bytes(whole)
        tried += 1
    assert tried > 67
    assert read_data_dir(copied).rows == 300


def test_a_pipe_in_place_of_the_document_does_not_block(copied: Path) -> None:
    (copied / "data_params.json").unlink()
    os.mkfifo(copied / "data_params.json")
    with pytest.raises(DataDirError, match="regular file"):
        read_data_dir(copied)
    assert any("regular file" in problem for problem in verify_dataset(copied).problems)


def test_a_shard_whose_attributes_differ_from_the_document_is_refused(copied: Path) -> None:
    with h5py.File(copied / "examples-00000-of-00005.h5", "r+") as file:
        file.attrs.modify("max_sequence_length", np.int64(10))
    with pytest.raises(ShardError, match="attribute max_sequence_length is 10, expected"):
        LlavaH5Dataset(copied)[0]
