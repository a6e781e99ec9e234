"""Exported files, read as ModelZoo's documentation describes, contain the values that our loader gives."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from conftest import CHECKOUT, create, turn_pair
from PIL import Image

torch = pytest.importorskip("torch", reason="the loaders need torch")

from written import IMAGES, PICTURES, write_folder  # noqa: E402

from hdf5_writer import load_config  # noqa: E402
from loaders import LlavaH5Dataset, export_hdf5, modelzoo  # noqa: E402
from loaders.data_dir import DataDirError, read_data_dir  # noqa: E402
from loaders.export_hdf5 import ExportError, export, main  # noqa: E402
from loaders.image_transform import ImageTransform  # noqa: E402
from preprocess.square_images import pad_to_square  # noqa: E402


def read_as_described(folder: Path) -> Iterator[dict[str, Any]]:
    """A reader written from the description only: all `*.h5` sorted by name, `data[i]` as int32, paths as UTF-8."""
    files = sorted(folder.glob("*.h5"))
    trailing, dtypes = set(), set()
    for path in files:
        with h5py.File(path, "r") as file:
            assert file.attrs["n_examples"] == len(file["data"])
            trailing.add(tuple((name, file[name].shape[1:]) for name in sorted(file)))
            dtypes.add(file["data"].dtype)
            for row in range(len(file["data"])):
                found = {name: file[name][row] for name in file if name != "img_path"}
                found["img_path"] = [path.decode("utf-8") for path in file["img_path"][row]]
                found["data"] = found["data"].astype(np.int32)
                yield found
    assert len(trailing) == 1
    assert dtypes == {np.dtype("<i4")}


def rows_of(folder: Path) -> LlavaH5Dataset:
    return LlavaH5Dataset(folder)


def paths_of(folder: Path) -> list[str]:
    """The image paths of the shards in order, as h5py reads them."""
    found: list[str] = []
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path, "r") as file:
            found += [name.decode() for name in file["images/path"][:].tolist()]
    return found


def several(count: int) -> list[dict[str, Any]]:
    """Records with zero to four images."""
    records = []
    for number in range(count):
        images = [PICTURES[(number + k) % len(PICTURES)] for k in range(number % 5)]
        question = " and ".join(["<image>"] * len(images)) + f"\nWhat is {number}?"
        record: dict[str, Any] = {"conversations": turn_pair(question, f"answer {number} " * (1 + number % 9))}
        records.append({**record, "image": images} if images else record)
    return records


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("fixed"), records=150, samples_per_shard=70)


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("free")
    return write_folder(
        folder, records=several(60), samples_per_shard=25, dataset__max_images=4, processor__max_sequence_length=3000
    )


def check_fixed_rows(dataset_dir: Path, out: Path) -> int:
    """Compare an export, read as described, with the output of our loader, and return the number of rows."""
    export(dataset_dir, out)
    dataset = rows_of(dataset_dir)
    paths = iter(paths_of(dataset_dir))
    count = 0
    for number, found in enumerate(read_as_described(out)):
        sample = dataset[number]
        expected = [sample[key] for key in ("text_input_ids", "loss_mask", "labels", "key_padding_mask")]
        assert np.array_equal(found["data"], np.array(expected, dtype=np.int32))
        assert found["img_path"] == [next(paths) if sample["has_image"] else "None"]
        assert found.keys() == {"data", "img_path"}
        count += 1
    assert next(paths, None) is None
    assert count == len(dataset)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("records", [500, pytest.param(5000, marks=pytest.mark.long)])
def test_fixed_rows_have_four_features_and_one_path(records: int, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, records=records, samples_per_shard=records // 3)
    assert check_fixed_rows(folder, tmp_path / "exported") == records


@pytest.mark.slow
def test_the_quickstart_is_exported_row_by_row(tmp_path: Path) -> None:
    config = load_config("quickstart.yaml", setup__output_dir=str(tmp_path / "quickstart"), setup__processes=1)
    create(config)
    assert check_fixed_rows(tmp_path / "quickstart", tmp_path / "exported") == 55


@pytest.mark.slow
def test_rows_of_several_images_have_image_positions_and_a_fifth_feature(free: Path, tmp_path: Path) -> None:
    export(free, tmp_path / "out")
    dataset = rows_of(free)
    length, slots = dataset.data_dirs[0].max_sequence_length, dataset.data_dirs[0].num_patches
    found_images = []
    for number, found in enumerate(read_as_described(tmp_path / "out")):
        block = dataset[number]
        for feature, key in enumerate(("text_input_ids", "loss_mask", "labels", "key_padding_mask")):
            assert np.array_equal(found["data"][feature], block[key])
        count = int((found["img_data_loc"][:, 0] < length).sum())
        assert found["img_path"][count:] == ["None"] * (4 - count)
        assert "None" not in found["img_path"][:count]
        assert found["has_img"].tolist() == [count > 0]
        assert (found["img_data_loc"][count:] == length).all()
        at = np.zeros(length, dtype=np.int32)
        for places in found["img_data_loc"][:count]:
            assert np.array_equal(np.diff(places), np.ones(slots - 1))
            at[places] = 1
        assert np.array_equal(found["data"][4], at)
        assert (found["data"][0][at == 1] == dataset.data_dirs[0].pad_id).all()
        found_images.append(count)
    assert sorted(set(found_images)) == [0, 1, 2, 3, 4]
    document = json.loads((tmp_path / "out" / "data_params.json").read_text())
    assert (document["image_start_idx"], document["max_num_img"]) == (None, 4)
    assert document["data_processor"] == "MultimodalSimpleHDF5MapDataProcessor"


@pytest.mark.slow
def test_datasets_without_images_and_with_non_ascii_paths_are_exported(tmp_path: Path) -> None:
    text = [{"conversations": turn_pair(f"Q {n}", f"A {n}")} for n in range(5)]
    export(write_folder(tmp_path / "text", records=text, samples_per_shard=3), tmp_path / "text-out")
    assert [found["img_path"] for found in read_as_described(tmp_path / "text-out")] == [["None"]] * 5
    images = tmp_path / "images"
    images.mkdir()
    name = "bücher/図.png"
    (images / "bücher").mkdir()
    (images / name).write_bytes((IMAGES / PICTURES[0]).read_bytes())
    records = [{"image": name, "conversations": turn_pair("<image>\nQ", "A")}]
    written = write_folder(tmp_path / "paths", records=records, samples_per_shard=3, dataset__image_dir=str(images))
    export(written, tmp_path / "paths-out")
    assert [found["img_path"] for found in read_as_described(tmp_path / "paths-out")] == [[name]]


def test_the_command_prints_a_section_for_a_params_file(
    fixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    arguments = [str(fixed), str(tmp_path / "out"), "--format", "modelzoo", "--image_dir", str(images)]
    assert main(arguments) == 2
    assert f"export_hdf5: image folder {images}: no such folder; give the one that" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    images.mkdir()
    assert main([*arguments, "--image_aspect_ratio", "pad"]) == 0
    section = yaml.safe_load(capsys.readouterr().out)["train_input"]
    assert section["data_processor"] == "LlavaHDF5MapDataProcessor"
    assert (section["data_dir"], section["img_data_dir"]) == (str(tmp_path / "out"), str(images))
    names = [transform["name"] for transform in section["transforms"]]
    assert names == ["expand_to_square", "resize", "center_crop", "to_tensor", "normalize"]
    assert section["transforms"][0]["background_color"] == [122, 116, 104]
    assert main(arguments) == 0
    section = yaml.safe_load(capsys.readouterr().out)["train_input"]
    assert section["transforms"][0] == {
        "name": "resize",
        "size": section["image_data_size"][1],
        "interpolation": "bicubic",
    }
    with pytest.raises(DataDirError, match=r"out/data_params\.json: is of an export in the format 'modelzoo'"):
        read_data_dir(tmp_path / "out")
    document = json.loads((tmp_path / "out" / "data_params.json").read_text())
    assert document["image_start_idx"] == rows_of(fixed).data_dirs[0].image_start_idx
    assert sum(file["examples"] for file in document["files"]) == document["examples"] == 150


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_rerun_keeps_complete_files_and_rewrites_missing_and_damaged_ones(fixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(fixed, out)
    whole = contents(out)
    first, second, third = sorted(out.glob("*.h5"))
    first.unlink()
    damaged = bytearray(second.read_bytes())
    damaged[-100] ^= 1
    second.write_bytes(bytes(damaged))
    before = third.stat().st_mtime_ns
    export(fixed, out)
    assert contents(out) == whole
    assert third.stat().st_mtime_ns == before


def test_a_file_damaged_before_the_export_was_finished_is_written_again(
    fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(fixed, tmp_path / "whole")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(export_hdf5, "_export_params", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            export(fixed, out)
    assert not (out / "data_params.json").exists()
    first, second, _ = sorted(out.glob("*.h5"))
    damaged = bytearray(first.read_bytes())
    damaged[-100] ^= 1
    first.write_bytes(bytes(damaged))
    before = second.stat().st_mtime_ns
    export(fixed, out)
    assert contents(out) == contents(tmp_path / "whole")
    assert second.stat().st_mtime_ns == before


@pytest.mark.faults
def test_a_kill_in_the_middle_and_a_rerun_give_the_same_files(fixed: Path, tmp_path: Path) -> None:
    export(fixed, tmp_path / "whole")
    script = (
        "import os, signal, sys\n"
        "from loaders import export_hdf5\n"
        "made, kill_at = 0, int(sys.argv[3])\n"
        "original = export_hdf5.publish\n"
        "def publish(path, chunks):\n"
        "    global made\n"
        "    made += 1\n"
        "    if made == kill_at:\n"
        "        path.with_name(f'.{path.name}.{0:032x}.tmp').write_bytes(b'half')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    original(path, chunks)\n"
        "export_hdf5.publish = publish\n"
        "sys.exit(export_hdf5.main([sys.argv[1], sys.argv[2], '--format', 'modelzoo']))\n"
    )
    for kill_at in range(1, 8):  # three files, a receipt for each, and data_params.json
        out = tmp_path / f"out-{kill_at}"
        command = [sys.executable, "-c", script, str(fixed), str(out), str(kill_at)]
        assert subprocess.run(command, cwd=CHECKOUT, capture_output=True).returncode == -9
        assert main([str(fixed), str(out), "--format", "modelzoo"]) == 0
        assert contents(out) == contents(tmp_path / "whole")


def test_a_dataset_of_packed_rows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = write_folder(tmp_path / "packed", records=20, samples_per_shard=20, processor__packing="best_fit")
    assert main([str(packed), str(tmp_path / "out"), "--format", "modelzoo"]) == 2
    assert "rows are packed (processor.packing best_fit)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dataset_with_images_in_its_shards_is_refused(tmp_path: Path) -> None:
    stored = write_folder(tmp_path, records=3, samples_per_shard=3, dataset__store_images="encoded")
    with pytest.raises(ExportError, match="its images are in the shards"):
        export(stored, tmp_path / "exported")


def test_an_image_named_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    shutil.copy(IMAGES / PICTURES[0], tmp_path / "pictures" / "None")
    records = [{"image": "None", "conversations": turn_pair("<image>\nWhat?", "A picture.")}]
    folder = write_folder(tmp_path, records=records, samples_per_shard=1, dataset__image_dir=str(tmp_path / "pictures"))
    with pytest.raises(ExportError, match="an image is called None"):
        export(folder, tmp_path / "exported")


# The longer edge after resizing to 336: 560, 560, 336, 702 and 339, which torchvision crops differently.
@pytest.mark.parametrize("size", [(500, 300), (300, 500), (336, 336), (335, 700), (336, 339)])
@pytest.mark.parametrize("aspect_ratio", ["square", "pad"])
def test_the_transforms_of_the_section_give_the_values_of_our_loader(
    fixed: Path, aspect_ratio: Any, size: tuple[int, int]
) -> None:
    """Created by name, as `create_transform` in ModelZoo's data/vision/transforms.py creates them."""
    torchvision = pytest.importorskip("torchvision.transforms", reason="torchvision makes these transforms")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    ours = ImageTransform(336, aspect_ratio, torch.float32)(image)
    section = modelzoo.ModelZooLayout.of(read_data_dir(fixed)).train_input("out", "images", 336, aspect_ratio)
    for step in section["transforms"]:
        match step["name"]:
            case "expand_to_square":
                image = pad_to_square(image, tuple(step["background_color"]))
            case "resize":
                bicubic = torchvision.InterpolationMode(step["interpolation"])
                image = torchvision.Resize(step["size"], interpolation=bicubic)(image)
            case "center_crop":
                image = torchvision.CenterCrop(step["size"])(image)
            case "to_tensor":
                image = torchvision.ToTensor()(image)
            case "normalize":
                image = torchvision.Normalize(step["mean"], step["std"])(image)
    one_pixel_off = aspect_ratio == "square" and size == (336, 339)
    assert torch.allclose(image, ours, rtol=0, atol=1e-5) != one_pixel_off


@pytest.mark.parametrize("name", ["file", "file/folder"])
def test_an_output_that_is_a_file_is_refused(
    fixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    assert main([str(fixed), str(tmp_path / name), "--format", "modelzoo"]) == 2
    assert f"{tmp_path / name}: cannot be created as a folder, because a file has this name" in capsys.readouterr().err
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_data_params_of_the_user_are_not_replaced(
    fixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mine in (b'{"mine": 1}\n', (fixed / "data_params.json").read_bytes()):
        (tmp_path / "data_params.json").write_bytes(mine)
        assert main([str(fixed), str(tmp_path), "--format", "modelzoo"]) == 2
        assert "data_params.json: is not a file of an export; remove it, or give" in capsys.readouterr().err
        assert (tmp_path / "data_params.json").read_bytes() == mine
    assert [path.name for path in tmp_path.iterdir()] == ["data_params.json"]


@pytest.mark.slow
def test_wrong_folders_are_refused(fixed: Path, free: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is the dataset itself"):
        export(fixed, fixed)
    (tmp_path / "mine.h5").write_bytes(b"x")
    with pytest.raises(ExportError, match=r"mine.h5: is not a file of this export; remove it"):
        export(fixed, tmp_path)
    export(fixed, tmp_path / "out")
    other = write_folder(tmp_path / "other", records=150, samples_per_shard=70, salt="second")
    with pytest.raises(ExportError, match="was exported from another dataset"):
        export(other, tmp_path / "out")
    next((tmp_path / "out").glob("*.h5")).write_bytes(b"no HDF5")
    with pytest.raises(ExportError, match="is not a file of this export"):
        export(fixed, tmp_path / "out")
    assert main([str(tmp_path / "absent"), str(tmp_path / "new"), "--format", "modelzoo"]) == 2


def test_a_dataset_without_rows_is_refused(tmp_path: Path) -> None:
    bad = [{"conversations": []}]
    empty = write_folder(tmp_path / "empty", records=bad, samples_per_shard=3, setup__max_reject_fraction=1.0)
    with pytest.raises(ExportError, match="holds no rows"):
        export(empty, tmp_path / "out")


def test_values_that_differ_when_read_back_end_the_export(
    fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed = modelzoo._compressed
    monkeypatch.setattr(modelzoo, "_compressed", lambda row: compressed(np.full_like(row, 7)))
    assert main([str(fixed), str(tmp_path / "out"), "--format", "modelzoo"]) == 1
    assert not list((tmp_path / "out").glob("*.h5"))


def test_the_section_in_the_docs_is_the_printed_one() -> None:
    page = (CHECKOUT / "docs" / "export.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])["train_input"]
    layout = modelzoo.ModelZooLayout(length=1024, num_patches=576, image_start_idx=33, most_images=1)
    assert layout.train_input(shown["data_dir"], shown["img_data_dir"], 336, "pad") == shown
