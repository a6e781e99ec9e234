"""The embedded example, from the first command of the README to batches with images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the loaders need torch")

from clip_processor import clip_processor  # noqa: E402
from conftest import QUICKSTART, create  # noqa: E402
from PIL import Image  # noqa: E402
from written import Written, first, read_written  # noqa: E402

from hdf5_writer.config import read_config  # noqa: E402
from loaders import ImageError, create_dataloader  # noqa: E402
from loaders.blocks import StoredImage  # noqa: E402
from loaders.image_source import ImageFiles  # noqa: E402
from loaders.image_transform import ImageTransform  # noqa: E402

IMAGES = QUICKSTART / "images"
TEXT = ("text_input_ids", "labels", "loss_mask", "key_padding_mask")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The dataset that the first command of the README writes."""
    folder = tmp_path_factory.mktemp("quickstart")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        create(read_config("quickstart.yaml"))
    return read_written(folder / "quickstart_output")


def pixels_of(path: Path, aspect_ratio: str, dtype: Any) -> Any:
    processor = clip_processor()
    image = Image.open(path).convert("RGB")
    if aspect_ratio == "pad":
        edge = max(image.size)
        square = Image.new("RGB", (edge, edge), (122, 116, 104))
        square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
        image = square
    return processor.preprocess(image, return_tensors="pt")["pixel_values"][0].to(dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("aspect_ratio", "options", "dtype"),
    [
        ("square", {}, torch.float16),
        ("pad", {"num_workers": 2}, torch.float16),
        ("pad", {"image_dtype": torch.bfloat16}, torch.bfloat16),
        ("square", {"image_dtype": torch.float32, "shuffle": False}, torch.float32),
    ],
)
def test_every_field_of_every_batch_equals_the_shards_and_the_authors_pixels(
    example: Written, aspect_ratio: Any, options: dict[str, Any], dtype: Any
) -> None:
    arrays = example.arrays
    by_ids = {row.tobytes(): number for number, row in enumerate(arrays["text_input_ids"])}
    loader = create_dataloader(example.root, IMAGES, 5, image_aspect_ratio=aspect_ratio, **options)
    slots = slice(33, 33 + 576)
    seen = []
    for batch in loader:
        assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()} == {
            **dict.fromkeys(TEXT, ((5, 1024), torch.int32)),
            "has_image": ((5,), torch.bool),
            "image_data": ((5, 3, 336, 336), dtype),
        }
        for i in range(5):
            row = by_ids[batch["text_input_ids"][i].numpy().tobytes()]
            seen.append(row)
            for name in TEXT:
                assert np.array_equal(batch[name][i].numpy(), arrays[name][row])
            path = arrays["image_paths"][row].decode()
            assert bool(batch["has_image"][i]) == (path != "")
            if path:
                assert torch.equal(batch["image_data"][i], pixels_of(IMAGES / path, aspect_ratio, dtype))
            else:
                assert not batch["image_data"][i].any()
                assert (batch["key_padding_mask"][i, slots] == 1).all()
    assert sorted(seen) == list(range(55))
    if options.get("shuffle") is False:
        assert seen == list(range(55))
    assert loader.failed_images == 0


def make_failing(tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy of the pictures in which one is missing, one truncated and one a text file."""
    import shutil

    images = Path(shutil.copytree(IMAGES, tmp_path / "images"))
    with h5py.File(first().root / "examples-00000-of-00005.h5") as file:
        paths = [path.decode() for path in file["images/path"][:5]]
    (images / paths[0]).unlink()
    (images / paths[1]).write_bytes((images / paths[1]).read_bytes()[:200])
    (images / paths[2]).write_text("version https://git-lfs.github.com/spec/v1\n")
    return images, paths[:3]


def test_an_unreadable_image_is_named_with_file_and_line(tmp_path: Path) -> None:
    images, failing = make_failing(tmp_path)
    loader = create_dataloader(first().root, images, 1, shuffle=False)
    for row, path in enumerate(failing):
        with pytest.raises(ImageError, match=rf"^first.jsonl, line {row + 1}: image {path} in {images} cannot be"):
            loader.dataset[row]
    loader.dataset[3]
    with pytest.raises(ImageError, match=r"first.jsonl, line 1"):
        next(iter(loader))
    with pytest.raises(ImageError, match=r"first.jsonl, line 1"):  # also through a worker
        next(iter(create_dataloader(first().root, images, 1, shuffle=False, num_workers=1)))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_blank_image_is_masked_has_no_loss_and_is_counted(tmp_path: Path, workers: int) -> None:
    images, failing = make_failing(tmp_path)
    options: dict[str, Any] = {"on_image_error": "blank", "shuffle": False, "num_workers": workers}
    loader = create_dataloader(first().root, images, 10, **options)
    arrays = first().arrays
    slots = slice(33, 33 + 64)
    row = failed = 0
    for batch in loader:
        for i in range(10):
            path = arrays["image_paths"][row].decode()
            mask = arrays["key_padding_mask"][row].copy()
            if path in failing:
                failed += 1
                mask[slots] = 1
                assert not batch["image_data"][i].any()
                assert not batch["loss_mask"][i].any()
                assert not batch["has_image"][i]
            else:
                assert batch["has_image"][i] == (path != "")
                assert np.array_equal(batch["loss_mask"][i].numpy(), arrays["loss_mask"][row])
            assert np.array_equal(batch["key_padding_mask"][i].numpy(), mask)
            assert np.array_equal(batch["text_input_ids"][i].numpy(), arrays["text_input_ids"][row])
            row += 1
        assert loader.failed_images == failed, "counts batches that were received, not prefetched ones"
    assert failed > 10


@pytest.mark.slow
def test_the_first_ten_blank_images_and_their_count_per_epoch_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, _ = make_failing(tmp_path)
    loader = create_dataloader(first().root, images, 10, shuffle=False, on_image_error="blank")
    for _ in loader:
        pass
    failed = loader.failed_images
    assert failed > 10
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 11
    assert messages[-1] == f"epoch 0: {failed} images could not be read and were left blank, {failed} since the start"


@pytest.mark.slow
def test_each_data_dir_can_have_its_own_image_folder(tmp_path: Path) -> None:
    import shutil

    other = Path(shutil.copytree(IMAGES, tmp_path / "images"))
    path = first().arrays["image_paths"][0].decode()
    Image.new("RGB", (112, 112), (255, 0, 0)).save(other / path)
    roots = [first().root, first().root]
    dataset = create_dataloader(roots, [IMAGES, other], 1).dataset
    assert not torch.equal(dataset[0]["image_data"], dataset[300]["image_data"])
    assert len(dataset[300]["image_data"].flatten(1).unique(dim=1).T) == 1


def test_without_an_image_folder_a_batch_has_no_image_data() -> None:
    batch = next(iter(create_dataloader(first().root, batch_size=4)))
    assert set(batch) == {*TEXT, "has_image"}


def test_a_stored_path_outside_the_image_folder_is_refused() -> None:
    files = ImageFiles({0: IMAGES}, ImageTransform(112, "square"))
    for path in (b"/etc/passwd", b"../images/x.png", b"a/../../x.png"):
        with pytest.raises(ImageError, match="leads out of the folder"):
            files.read(0, StoredImage(number=0, path=path, start=1, slots=64), torch.empty(3, 112, 112))


def test_the_state_is_json_and_the_same_on_every_rank() -> None:
    states = []
    for rank in range(3):
        loader = create_dataloader(first().root, IMAGES, 4, rank=rank, world_size=3)
        next(iter(loader))
        states.append(json.dumps(loader.state_dict()))
    assert len(set(states)) == 1
    assert len(states[0]) < 1024
