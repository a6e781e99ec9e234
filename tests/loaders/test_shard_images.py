"""Images stored in the shards give the same batches as a folder of images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ConfigMaker, create, needs_shared, shared_folder, turn_pair, write_jsonl

torch = pytest.importorskip("torch", reason="the loaders need torch")

from clip_processor import clip_processor  # noqa: E402
from PIL import Image  # noqa: E402
from written import IMAGES, records_of  # noqa: E402

from loaders import DataDirError, ImageError, create_dataloader  # noqa: E402
from preprocess.square_images import pad_to_square  # noqa: E402

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
FORMS: dict[str, dict[str, Any]] = {
    "path": {},
    "encoded": {"dataset__store_images": "encoded"},
    "pixels": {"dataset__store_images": "pixels", "dataset__image_aspect_ratio": "pad"},
}


@pytest.fixture
def write(make_config: ConfigMaker, tmp_path: Path) -> Any:
    """Write 60 records, five of seven with an image, in 4 shards, and return the folder."""
    write_jsonl(tmp_path / "in" / "a.jsonl", records_of(60, "x"))

    def make(form: str, **changes: Any) -> Path:
        root = tmp_path / "_".join([form, *map(str, changes.values())])
        create(make_config(setup__output_dir=str(root), setup__samples_per_shard=16, **{**FORMS[form], **changes}))
        return root

    return make


def batches(root: Path, images: Path | None = None, **options: Any) -> list[Any]:
    options = {"batch_size": 8, "image_aspect_ratio": "pad", "shuffle_seed": 3, **options}
    return list(create_dataloader(root, images, **options))


def assert_same(found: list[Any], wanted: list[Any]) -> None:
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("form", ["encoded", "pixels"])
def test_batches_equal_those_with_a_folder_of_images(write: Any, form: str, tmp_path: Path) -> None:
    paths, stored = write("path"), write(form)
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(stored, moved)
    for dtype in DTYPES:
        wanted = batches(paths, IMAGES, image_dtype=dtype)
        assert_same(batches(moved, image_dtype=dtype), wanted)
        assert_same(batches(moved, image_dtype=dtype, verify=True), wanted)
    assert_same(batches(moved, image_dtype=torch.float32, num_workers=2), wanted)
    assert_same(batches(moved, image_dtype=torch.float32, open_files=1), wanted)
    assert wanted[0]["image_data"].any()


@pytest.mark.slow
@needs_shared("images")
@pytest.mark.parametrize("aspect_ratio", ["square", "pad"])
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.filterwarnings("ignore")
def test_readable_real_images_equal_those_of_the_processor(
    make_config: ConfigMaker, tmp_path: Path, aspect_ratio: Any, step: int
) -> None:
    folder, size = shared_folder("images"), 224
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()][::step]
    records = [{"image": name, "conversations": turn_pair("<image>\nWhat?", "A picture.")} for name in names]
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    common = {
        "setup__shuffle": False,
        "setup__max_reject_fraction": 1,
        "processor__max_sequence_length": 400,
        "dataset__image_dir": str(folder),
        "dataset__image_size": size,
        "dataset__store_images": "pixels",
        "dataset__image_aspect_ratio": aspect_ratio,
    }
    params = create(make_config(**common)).params
    assert params["counts"]["read"] == len(names) == params["counts"]["written"] + params["counts"]["rejected"]
    loaders = [
        create_dataloader(tmp_path / "out", None, 1, image_aspect_ratio=aspect_ratio, image_dtype=dtype, shuffle=False)
        for dtype in DTYPES
    ]
    processor, seen = clip_processor(size), 0
    for row, found in enumerate(zip(*loaders, strict=True)):
        _, line = loaders[0].dataset.source(row)
        image = Image.open(folder / names[line - 1]).convert("RGB")
        if aspect_ratio == "pad":
            image = pad_to_square(image)
        expected = processor.preprocess(image, return_tensors="pt")["pixel_values"]
        for batch, dtype in zip(found, DTYPES, strict=True):
            assert torch.equal(batch["image_data"], expected.to(dtype)), (names[line - 1], dtype)
        seen += 1
    assert seen > 100 // step


@pytest.mark.slow
def test_another_aspect_ratio_than_the_stored_one_is_refused(write: Any) -> None:
    root = write("pixels")
    with pytest.raises(DataDirError, match="image_aspect_ratio pad, but image_aspect_ratio is square"):
        batches(root, image_aspect_ratio="square")
    assert len(batches(write("encoded"), image_aspect_ratio="square")) > 0


@pytest.mark.slow
def test_an_image_folder_is_refused_where_shards_store_images_and_required_elsewhere(
    write: Any, tmp_path: Path
) -> None:
    paths, stored = write("path"), write("encoded")
    with pytest.raises(DataDirError, match="is given, but images are read from the shards; leave it out"):
        batches(stored, IMAGES)
    both = [stored, paths]
    with pytest.raises(DataDirError, match=f"{paths}: does not store its images as the others do"):
        batches(both)  # type: ignore[arg-type]
    found = batches(both, IMAGES, shuffle=False, drop_last=False, batch_size=60)  # type: ignore[arg-type]
    assert torch.equal(found[0]["image_data"], found[1]["image_data"])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["encoded", "pixels"])
def test_a_damaged_image_is_an_error_that_names_its_record_or_is_left_blank(write: Any, form: str) -> None:
    import h5py

    root = write(form, setup__shuffle=False)
    wanted = batches(root, shuffle=False, drop_last=False)
    shard = root / "examples-00001-of-00004.h5"
    with h5py.File(shard) as file:
        at = file["contents/data"].id.get_offset() + int(file["contents/begin"][1]) + 40
        path = file["images/path"][1].decode()
        rows = [16 + row for row in range(16) if file["images/offsets"][row] < file["images/offsets"][row + 1]]
    data = bytearray(shard.read_bytes())
    data[at] ^= 8
    shard.write_bytes(data)
    if form == "pixels":
        found = batches(root, shuffle=False, drop_last=False)
        pairs = zip(found, wanted, strict=True)
        same = [torch.equal(one["image_data"], other["image_data"]) for one, other in pairs]
        assert same.count(False) == 1, "pixels are only checked where verify is asked for"
        return
    for workers in (0, 1):
        with pytest.raises(ImageError, match=f"^a.jsonl, line .*: image {path} in {shard} .* CRC-32.*$") as failed:
            batches(root, shuffle=False, drop_last=False, num_workers=workers)
        assert len(str(failed.value).splitlines()) == 1
    found = batches(root, shuffle=False, drop_last=False, on_image_error="blank")
    row = rows[1]
    assert not found[row // 8]["has_image"][row % 8]
    assert not found[row // 8]["image_data"][row % 8].any()
    assert not found[row // 8]["loss_mask"][row % 8].any()
    assert sum(batch.failed_images for batch in found) == 1


@pytest.mark.slow
def test_at_most_one_file_per_shard_is_open(write: Any) -> None:
    root = write("encoded")
    loader = create_dataloader(root, None, 8, image_aspect_ratio="pad")
    before = len(os.listdir("/proc/self/fd"))
    for _ in loader:
        assert len(os.listdir("/proc/self/fd")) <= before + 4
