"""With any flipped bit or truncation, a loader with verify=True refuses, and one without never returns a wrong row."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ConfigMaker

pytest.importorskip("torch", reason="the loaders need torch")

from damage import FORMS, damaged, finished_folder, output_files

from loaders import DataDirError, ImageError, ShardError, create_dataloader
from loaders.shard_reader import ShardReader

pytestmark = pytest.mark.faults


def read_all(root: Path, *, verify: bool) -> dict[str, Any]:
    """Everything that a loader can read from a folder: batches and the values per row."""
    loader = create_dataloader(root, batch_size=4, shuffle=False, drop_last=False, verify=verify)
    batches = list(loader)
    found = {name: np.concatenate([batch[name].numpy() for batch in batches]) for name in batches[0]}
    dataset = loader.dataset
    found["modality_lengths"] = dataset.modality_lengths
    found["sources"] = np.array([f"{file}:{line}" for file, line in map(dataset.source, range(len(dataset)))])
    reader = ShardReader(dataset.data_dirs[0].shards)
    images = [images for shard in range(3) for images in reader.block(shard, 0).images]
    found["images"] = np.array([repr(row) for row in images])
    found["image_paths"] = np.array([image.path for row in images for image in row])
    return found


def outcome(root: Path, *, verify: bool) -> dict[str, Any] | str:
    """Result of `read_all`, or its error message."""
    try:
        return read_all(root, verify=verify)
    except (ShardError, DataDirError, ImageError) as error:
        return str(error)


def is_same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("form", FORMS)
def test_verify_finds_all_damage_and_the_loader_never_returns_wrong_rows(
    make_config: ConfigMaker, tmp_path: Path, rounds: int, form: str
) -> None:
    """Except for wrong pixels in datasets with stored pixels, which are only checked with verify=True."""
    out = finished_folder(make_config, tmp_path, form)
    wanted = read_all(out, verify=True)
    assert ("image_data" in wanted) == (form != "path")
    assert len(wanted["labels"]) >= 11
    assert set(wanted["image_paths"]) == {b"shapes/0001.png"}
    choose = random.Random(rounds)
    read = [path for path in output_files(out) if path.suffix == ".h5" or path.name == "data_params.json"]
    unnoticed, wrong, refused = [], [], 0
    for number in range(5 * rounds):  # 1,000 in the long part
        path = choose.choice(read)
        with damaged(path, choose, cut=number % 4 == 0) as at:
            strict, plain = outcome(out, verify=True), outcome(out, verify=False)
        if str(path) not in strict:
            unnoticed.append((path.name, at))
        if isinstance(plain, str):
            assert str(path) in plain
            refused += 1
        elif not is_same(plain, wanted):
            if form == "pixels":
                plain["image_data"] = wanted["image_data"]
            if not is_same(plain, wanted):
                wrong.append((path.name, at))
    assert (unnoticed, wrong) == ([], [])
    assert refused > rounds
    assert is_same(read_all(out, verify=True), wanted)


def test_a_loader_ignores_damage_in_data_that_it_does_not_read(make_config: ConfigMaker, tmp_path: Path) -> None:
    out = finished_folder(make_config, tmp_path)
    wanted, choose = read_all(out, verify=True), random.Random(0)
    for path in output_files(out):
        if path.suffix != ".h5" and path.name != "data_params.json":
            with damaged(path, choose, cut=False):
                assert is_same(read_all(out, verify=True), wanted)
