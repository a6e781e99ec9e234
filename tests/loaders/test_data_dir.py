"""Which folders are taken, and which refused in which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the loaders need torch")

from written import first, second

from hdf5_writer.publish import seal
from loaders import DataDirError, create_dataloader
from loaders.data_dir import read_data_dir


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(first().root, tmp_path / "copied"))


def change_params(root: Path, **changes: Any) -> None:
    """Rewrite `data_params.json` with a right checksum."""
    path = root / "data_params.json"
    params = {**json.loads(path.read_bytes()), **changes}
    del params["checksum"]
    path.write_bytes(seal(params, indent=True))


def test_what_the_main_job_wrote_is_read() -> None:
    params = json.loads((first().root / "data_params.json").read_bytes())
    data_dir = read_data_dir(first().root)
    assert data_dir.rows == params["counts"]["written"] == 300
    assert data_dir.image_start_idx == params["image_start_idx"]
    assert data_dir.tokenizer_digest == params["tokenizer"]["digest"]
    assert data_dir.inputs == ("first.jsonl",)
    assert [shard.rows for shard in data_dir.shards] == [70, 70, 70, 70, 20]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="no such folder"):
        read_data_dir(tmp_path / "nowhere")


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match=r"holds no data_params.json"):
        read_data_dir(tmp_path)


def test_an_unfinished_dataset(copied: Path) -> None:
    (copied / "data_params.json").unlink()
    with pytest.raises(DataDirError, match=r"holds shards but no data_params.json, so it is no finished dataset"):
        read_data_dir(copied)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"not JSON", b'{"checksum": 1}'])
def test_damaged_parameters(copied: Path, data: bytes) -> None:
    (copied / "data_params.json").write_bytes(data)
    with pytest.raises(DataDirError, match=r"data_params.json: (is damaged|was changed)"):
        read_data_dir(copied)


def test_parameters_edited_by_hand(copied: Path) -> None:
    path = copied / "data_params.json"
    path.write_bytes(path.read_bytes().replace(b'"rows": 70', b'"rows": 71'))
    with pytest.raises(DataDirError, match="was changed after it was written"):
        read_data_dir(copied)


@pytest.mark.parametrize(
    ("version", "advice"), [("2.0", "upgrade"), ("0.9", "write the dataset again"), (None, "not made")]
)
def test_another_major_version(copied: Path, version: str | None, advice: str) -> None:
    change_params(copied, schema_version=version)
    with pytest.raises(DataDirError, match=advice):
        read_data_dir(copied)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_sequence_length", 512),
        ("num_patches", 144),
        ("image_start_idx", 1),
        ("image_size", 168),
        ("pad_id", 5),
        ("tokenizer", {"name": "other", "digest": "0" * 64}),
    ],
)
def test_a_dir_that_disagrees_is_refused_by_name(copied: Path, name: str, value: Any) -> None:
    change_params(copied, **{name: value})
    shown = "tokenizer_digest" if name == "tokenizer" else name
    with pytest.raises(DataDirError, match=rf"{copied}: has {shown} .*, but {second().root} has"):
        create_dataloader([second().root, copied], batch_size=4)
    with pytest.raises(DataDirError, match=f"has {shown}"):
        create_dataloader(mixture=[(second().root, 1), (copied, 1)], batch_size=4)
    create_dataloader(second().root, batch_size=4)


def test_dirs_of_several_minor_versions_go_together(copied: Path) -> None:
    change_params(copied, schema_version="1.9")
    assert len(create_dataloader([second().root, copied], batch_size=4).dataset) == 400


def test_a_shard_name_that_leads_elsewhere(copied: Path) -> None:
    shards = json.loads((copied / "data_params.json").read_bytes())["shards"]
    shards[0]["name"] = "../../etc/passwd"
    change_params(copied, shards=shards)
    with pytest.raises(DataDirError, match="no name of a shard"):
        read_data_dir(copied)
