"""Datasets with stored images: contents of shards, complete runs, changed images, damage that verification finds."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import (
    QUICKSTART,
    ConfigMaker,
    InlineExecutor,
    SilentProgress,
    create,
    output_digests,
    turn_pair,
    write_jsonl,
)
from PIL import Image

from hdf5_writer.planning.plan import OtherPlanError
from hdf5_writer.run import create_dataset
from hdf5_writer.schema import DATASETS
from hdf5_writer.verify import verify_dataset
from preprocess.config import ConfigError
from preprocess.model_pixels import ModelPixels

PICTURES = sorted(path.relative_to(QUICKSTART / "images").as_posix() for path in (QUICKSTART / "images").rglob("*.png"))
PIXELS = {"dataset__store_images": "pixels", "dataset__image_aspect_ratio": "pad"}
ENCODED = {"dataset__store_images": "encoded"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The embedded images, one of them under two names, and a file that is not an image."""
    folder = tmp_path / "images"
    shutil.copytree(QUICKSTART / "images", folder)
    shutil.copy(folder / PICTURES[0], folder / "again.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture
def config_of(make_config: ConfigMaker, tmp_path: Path, images: Path) -> Any:
    """A config for 24 records in 3 shards: repeated images, text only, rejects."""
    names = [PICTURES[number % 9] for number in range(18)] + ["again.png", "broken.png", "gone.png"]
    records = [
        {"id": name, "image": name, "conversations": turn_pair(f"<image>\nWhat is {n}?", f"Number {n}.")}
        for n, name in enumerate(names)
    ]
    records += [{"conversations": turn_pair(f"Q{n}?", f"A{n}.")} for n in range(3)]
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    common = {"setup__samples_per_shard": 8, "dataset__image_dir": str(images), "setup__max_reject_fraction": 1}
    return lambda **changes: make_config(**{**common, **changes})


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*.h5"))


def stored(file: h5py.File) -> list[bytes]:
    data = file["contents/data"][:]
    return [data[start:stop].tobytes() for start, stop in itertools.pairwise(file["contents/begin"][:])]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [ENCODED, PIXELS], ids=["encoded", "pixels"])
def test_each_distinct_image_is_stored_once_per_shard_unchanged(
    config_of: Any, tmp_path: Path, images: Path, kept: Any
) -> None:
    params = create(config_of(**kept)).params
    counts = params["counts"]
    assert (counts["read"], counts["written"], counts["rejected"]) == (24, 22, 2)
    assert counts["rejected_by_reason"] == {"image_missing": 1, "image_unreadable": 1}
    pixels, total = ModelPixels(112, "pad"), 0
    for path in shards(tmp_path / "out"):
        with h5py.File(path) as file:
            names = [name.decode() for name in file["images/path"][:]]
            files = [(images / name).read_bytes() for name in names]
            contents = [stored(file)[content] for content in file["images/content"][:]]
            if kept is ENCODED:
                assert contents == files
            else:
                made = [pixels(Image.open(io.BytesIO(data))).tobytes() for data in files]
                assert contents == made
            hashes = [hashlib.sha256(data).digest() for data in files]
            assert [row.tobytes() for row in file["contents/sha256"][:][file["images/content"][:]]] == hashes
            assert len(file["contents/sha256"]) == len(set(hashes)) == file.attrs["n_contents"]
            # In the order in which rows use them.
            first_uses = list(dict.fromkeys(file["images/content"][:].tolist()))
            assert first_uses == list(range(len(first_uses)))
            place = file["contents/data"].id.get_offset()
            assert place % 4096 == 0
            assert path.read_bytes()[place : place + len(file["contents/data"])] == b"".join(stored(file))
            total += len(file["contents/data"])
            assert file.attrs["store_images"] == kept["dataset__store_images"].encode()
    assert params["stored_bytes"] == total > 0
    assert params["image_aspect_ratio"] == kept.get("dataset__image_aspect_ratio")
    assert verify_dataset(tmp_path / "out").problems == []


@pytest.mark.slow
def test_rows_equal_those_of_a_dataset_without_stored_images(config_of: Any, tmp_path: Path) -> None:
    """If images are decoded anyway, their hashes are stored too."""
    found = []
    for number, changes in enumerate(({"dataset__check_images": "decode"}, ENCODED, PIXELS)):
        root = tmp_path / str(number)
        create(config_of(setup__output_dir=str(root), **changes))
        names = DATASETS.keys() - {"contents/begin", "contents/crc32"}
        found.append({name: [h5py.File(path)[name][:].tolist() for path in shards(root)] for name in names})
    assert found[0] == found[1] == found[2]
    assert sum(map(len, found[0]["contents/sha256"])) > 0


def test_images_that_are_only_checked_for_existence_have_no_content(config_of: Any, tmp_path: Path) -> None:
    params = create(config_of()).params
    assert (params["store_images"], params["stored_bytes"]) == ("path", 0)
    for path in shards(tmp_path / "out"):
        with h5py.File(path) as file:
            assert (file["images/content"][:] == -1).all()
            assert file["contents/data"].shape == (0,)
            assert file["contents/begin"][:].tolist() == [0]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [ENCODED, PIXELS], ids=["encoded", "pixels"])
def test_missing_shards_are_rewritten_with_the_same_bytes(config_of: Any, tmp_path: Path, kept: Any) -> None:
    create(config_of(**kept))
    out = tmp_path / "out"
    whole = output_digests(out)
    (out / ".work/receipts/00001.json").unlink()
    shards(out)[2].unlink()
    (out / "data_params.json").unlink()
    create(config_of(**kept))
    assert output_digests(out) == whole
    assert list((out / ".work").glob("*tmp*")) == []


def changed(config: Any, out: Path) -> list[str]:
    """Messages of a resumed run."""
    progress = SilentProgress()
    create_dataset(config, progress, make_executor=InlineExecutor)
    assert verify_dataset(out).problems == []
    return [note for note in progress.notes if "was changed" in note]


@pytest.mark.slow
def test_shards_of_an_image_changed_between_runs_are_rewritten(config_of: Any, tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    create(config_of(**ENCODED))
    whole = output_digests(out)
    paths = [h5py.File(path)["images/path"][:].tolist() for path in shards(out)]
    users = [number for number, names in enumerate(paths) if PICTURES[2].encode() in names]
    assert len(users) > 1

    def broken_off() -> None:
        (out / "data_params.json").unlink()
        (out / ".work/receipts/00000.json").unlink()

    broken_off()
    os.utime(images / PICTURES[2], ns=(1, 1))
    assert changed(config_of(**ENCODED), out) == [], "new modification time, same bytes"
    assert output_digests(out) == whole
    broken_off()
    Image.new("RGB", (50, 40), "red").save(images / PICTURES[2])
    notes = changed(config_of(**ENCODED), out)
    assert len(notes) == len([number for number in users if number != 0])
    assert all(f"image {PICTURES[2]!r} was changed after it was read: shard" in note for note in notes)
    again = output_digests(out)
    assert again != whole
    shutil.rmtree(out)
    create(config_of(**ENCODED))
    assert output_digests(out) == again


@pytest.mark.slow
def test_another_storage_format_or_pillow_version_is_another_plan(
    config_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(config_of(**PIXELS))
    with pytest.raises(OtherPlanError, match=r"dataset\.image_aspect_ratio was pad, is square"):
        create(config_of(dataset__store_images="pixels", dataset__image_aspect_ratio="square"))
    with pytest.raises(OtherPlanError, match=r"dataset\.store_images was pixels, is encoded"):
        create(config_of(**ENCODED))
    monkeypatch.setattr("PIL.__version__", "99.0")
    with pytest.raises(OtherPlanError, match=r"pixels were made by Pillow .*, this run has Pillow 99\.0"):
        create(config_of(**PIXELS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset__store_images": "pixels"}, "image_aspect_ratio is missing, but store_images is pixels"),
        ({"dataset__image_aspect_ratio": "pad"}, "image_aspect_ratio is pad, but store_images is path"),
        ({**ENCODED, "dataset__image_aspect_ratio": "pad"}, "image_aspect_ratio is pad, but store_images is encoded"),
        (
            {**ENCODED, "dataset__check_images": "exists"},
            "check_images is 'exists', but store_images 'encoded'",
        ),
        ({"dataset__store_images": "jpeg"}, "store_images"),
    ],
)
def test_incompatible_keys_are_refused(make_config: ConfigMaker, changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(**changes)


def test_a_disk_filled_by_images_is_a_one_line_error(
    config_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hdf5_writer.image_spool.os.pwrite", full)
    with pytest.raises(OSError, match="No space left on device") as failed:
        create(config_of(**ENCODED))
    assert failed.value.filename == str(tmp_path / "out/.work")
    assert shards(tmp_path / "out") == []


@pytest.mark.slow
def test_packed_rows_store_their_images(config_of: Any, tmp_path: Path, images: Path) -> None:
    create(config_of(processor__packing="best_fit", processor__max_sequence_length=512, **ENCODED))
    for path in shards(tmp_path / "out"):
        with h5py.File(path) as file:
            contents = [stored(file)[content] for content in file["images/content"][:]]
            assert contents == [(images / name.decode()).read_bytes() for name in file["images/path"][:]]
    assert verify_dataset(tmp_path / "out").problems == []
    counts = json.loads((tmp_path / "out/data_params.json").read_text())["counts"]
    assert (counts["written"], counts["rejected"]) == (22, 2)


@pytest.mark.slow
def test_a_wrong_content_is_reported_with_its_number(config_of: Any, tmp_path: Path) -> None:
    create(config_of(**PIXELS))
    path = shards(tmp_path / "out")[1]
    with h5py.File(path) as file:
        at = file["contents/data"].id.get_offset() + int(file["contents/begin"][2]) + 5
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    problems = verify_dataset(tmp_path / "out").problems
    assert f"{path}: content 2: contents/data does not match contents/crc32" in problems
    assert np.sum([str(path) in problem for problem in problems]) == len(problems)
