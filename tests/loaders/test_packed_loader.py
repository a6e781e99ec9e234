"""Batches of packed rows: each sample equals its fixed row; images, bounds, order, restarts, invalid options."""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the loaders need torch")

from written import IMAGES, first, records_of, second, write_folder  # noqa: E402

from loaders import Collator, DataDirError, LlavaDataLoader, LlavaH5Dataset, create_dataloader  # noqa: E402

LENGTH, SLOTS = 512, 64
TEXT = ("text_input_ids", "labels", "loss_mask", "key_padding_mask")
POSITIONS = (*TEXT, "position_ids", "segment_ids")
_FOLDERS = tempfile.TemporaryDirectory(prefix="llava-hdf5-packed-")
_PACKED: dict[str, Any] = {"processor__packing": "best_fit", "processor__max_sequence_length": LENGTH}
Source = tuple[str, int]


@functools.cache
def packed(salt: str = "first", records: int = 300) -> Path:
    """The records of `first()`, packed."""
    folder = Path(_FOLDERS.name) / f"{salt}-{records}"
    return write_folder(folder, records=records, samples_per_shard=70, salt=salt, setup__shuffle=True, **_PACKED)


@functools.cache
def text_only() -> Path:
    records = [record for record in records_of(100, "first") if "image" not in record]
    return write_folder(Path(_FOLDERS.name) / "text", records=records, samples_per_shard=70, **_PACKED)


def make(**options: Any) -> LlavaDataLoader:
    return create_dataloader(**{"data_dir": packed(), "batch_size": 6, "shuffle_window": 1, **options})


def samples_of(batch: dict[str, Any]) -> list[tuple[int, slice]]:
    """The row and the positions of every sample."""
    found = []
    for row, segments in enumerate(batch["segment_ids"].numpy()):
        for segment in range(1, segments.max() + 1):
            (at,) = np.nonzero(segments == segment)
            assert np.array_equal(at, np.arange(at[0], at[-1] + 1))
            found.append((row, slice(int(at[0]), int(at[-1]) + 1)))
    return found


def texts_of(batch: dict[str, Any]) -> list[bytes]:
    """A key for each sample of a batch, unique among all samples."""
    return [b"".join(batch[name][at].numpy().tobytes() for name in TEXT[:3]) for at in samples_of(batch)]


@functools.cache
def fixed_samples() -> dict[Source, tuple[dict[str, Any], Any]]:
    """For every record its arrays in the fixed dataset, without dummy slots and padding, and its image.

    The label of the token before dummy slots is at the last of them.
    """
    dataset = LlavaH5Dataset(first().root, IMAGES)
    before_slots = dataset.data_dirs[0].image_start_idx - 1
    found = {}
    for row in range(len(dataset)):
        sample = dataset[row]
        kept = np.flatnonzero(sample["key_padding_mask"] == 0)
        arrays = {name: sample[name][kept] for name in TEXT}
        if not sample["has_image"]:
            predicting = np.where(kept == before_slots, before_slots + SLOTS, kept)
            arrays |= {name: sample[name][predicting] for name in ("labels", "loss_mask")}
        found[dataset.source(row)] = (arrays, sample["image_data"] if sample["has_image"] else None)
    return found


@pytest.mark.slow
def test_a_batch_has_the_documented_arrays() -> None:
    batch = next(iter(make(img_data_dir=IMAGES, with_cu_seqlens=True)))
    images = len(batch["image_rows"])
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items()} == {
        **dict.fromkeys(POSITIONS, ((6, LENGTH), torch.int32)),
        **dict.fromkeys(("image_rows", "image_starts", "image_slots"), ((images,), torch.int32)),
        "image_data": ((images, 3, 112, 112), torch.float16),
        "cu_seqlens": ((len(batch["cu_seqlens"]),), torch.int32),
        "max_seqlen": ((), torch.int32),
    }
    assert images >= 6
    assert "image_data" not in next(iter(make()))
    assert "cu_seqlens" not in next(iter(make()))


@pytest.mark.slow
def test_every_packed_sample_equals_its_fixed_row_and_image() -> None:
    loader = make(img_data_dir=IMAGES, shuffle=False, drop_last=False, batch_size=1)
    seen: list[Source] = []
    assert len(loader) < 100, "rows hold several samples"
    for row, batch in enumerate(loader):
        samples = samples_of(batch)
        starts = batch["image_starts"].tolist()
        assert starts == sorted(starts)
        for number, (_, span) in enumerate(samples):
            source = loader.dataset.source(row, number)
            expected, image = fixed_samples()[source]
            for name in TEXT:
                assert np.array_equal(batch[name][0, span].numpy(), expected[name]), (source, name)
            assert batch["position_ids"][0, span].tolist() == list(range(span.stop - span.start))
            mine = [at for at, start in enumerate(starts) if span.start <= start < span.stop]
            assert len(mine) == (image is not None)
            for at in mine:
                assert torch.equal(batch["image_data"][at], image)
                slots = batch["text_input_ids"][0, starts[at] : starts[at] + SLOTS]
                assert set(slots.tolist()) == {loader.dataset.data_dirs[0].pad_id}
            seen.append(source)
        padding = batch["segment_ids"][0] == 0
        assert torch.equal(batch["key_padding_mask"][0] == 1, padding)
    assert sorted(seen) == sorted(fixed_samples()), "an epoch has every sample once"


def test_images_of_a_batch_are_in_the_order_of_its_rows() -> None:
    together = next(iter(make(img_data_dir=IMAGES, shuffle=False)))
    alone = list(itertools.islice(make(img_data_dir=IMAGES, shuffle=False, batch_size=1), 6))
    rows = [row for row, batch in enumerate(alone) for _ in batch["image_rows"]]
    assert together["image_rows"].tolist() == rows
    for name in ("image_data", "image_starts", "image_slots"):
        assert torch.equal(together[name], torch.cat([batch[name] for batch in alone]))


def test_cu_seqlens_are_the_bounds_of_segments_in_the_flattened_batch() -> None:
    for batch in make(with_cu_seqlens=True, trim_to=8):
        flat = batch["segment_ids"].flatten().numpy()
        bounds = batch["cu_seqlens"].tolist()
        length = batch["segment_ids"].shape[1]
        changes = {at for at in range(1, len(flat)) if flat[at] != flat[at - 1] or at % length == 0}
        assert bounds == [0, *sorted(changes), len(flat)]
        assert batch["max_seqlen"] == max(np.diff(bounds))


def global_batches(world_size: int, at: int = 0, **options: Any) -> list[list[bytes]]:
    """The samples of all ranks from batch `at` on, in rank order."""
    ranks = []
    for rank in range(world_size):
        loader = make(batch_size=12 // world_size, rank=rank, world_size=world_size, **options)
        if at:
            before = make(batch_size=12)
            for _ in zip(range(at), before, strict=False):
                pass
            loader.load_state_dict(json.loads(json.dumps(before.state_dict())))
        ranks.append([texts_of(batch) for batch in loader])
    return [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


@pytest.mark.slow
def test_global_batches_are_the_same_for_every_world_size_and_after_a_restart() -> None:
    expected = global_batches(1)
    assert len(expected) >= 5
    for world_size in (2, 3, 4):
        assert global_batches(world_size) == expected
        assert global_batches(world_size, at=2) == expected[2:]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("options", [{}, {"img_data_dir": IMAGES, "trim_to": 8, "with_cu_seqlens": True}])
def test_a_batch_from_a_worker_equals_one_made_without_workers(options: dict[str, Any]) -> None:
    for mine, theirs in zip(make(**options), make(**options, num_workers=2), strict=True):
        assert list(mine) == list(theirs)
        for name, tensor in mine.items():
            assert tensor.dtype == theirs[name].dtype, name
            assert torch.equal(tensor, theirs[name]), name


def test_rows_read_one_by_one_make_the_same_batch() -> None:
    dataset = LlavaH5Dataset(packed(), IMAGES)
    collate = dataset.collator(trim_to=8, with_cu_seqlens=True)
    assert isinstance(collate, Collator)
    together, alone = collate(dataset.__getitems__([3, 0, 5])), collate([dataset[row] for row in (3, 0, 5)])
    assert list(together) == list(alone)
    assert all(torch.equal(tensor, alone[name]) for name, tensor in together.items())


def test_rows_are_trimmed_to_the_longest_and_labels_without_loss_are_ignored() -> None:
    whole, cut = (next(iter(make(shuffle=False, **options))) for options in ({}, {"trim_to": 8, "ignore_index": -100}))
    longest = int((whole["segment_ids"] > 0).sum(dim=1).max())
    length = -(-longest // 8) * 8
    for name in POSITIONS:
        assert cut[name].shape == (6, length)
        if name != "labels":
            assert torch.equal(cut[name], whole[name][:, :length])
    assert torch.equal(cut["labels"], whole["labels"][:, :length].where(cut["loss_mask"] == 1, torch.tensor(-100)))


@pytest.mark.slow
def test_an_unreadable_image_masks_its_slots_and_the_loss_of_its_own_sample_only(tmp_path: Path) -> None:
    broken = tmp_path / "images"
    for file in IMAGES.rglob("*.png"):
        (broken / file.relative_to(IMAGES)).parent.mkdir(parents=True, exist_ok=True)
        (broken / file.relative_to(IMAGES)).symlink_to(file)
    name = records_of(1, "first")[0]["image"]
    (broken / name).unlink()
    (broken / name).write_text("no image")
    options: dict[str, Any] = {"shuffle": False, "drop_last": False}
    whole = make(img_data_dir=IMAGES, **options)
    blank = make(img_data_dir=broken, on_image_error="blank", **options)
    failed = shared = 0
    for good, found in zip(whole, blank, strict=True):
        differs = (good["image_data"] != found["image_data"]).flatten(1).any(dim=1)
        failed += int(differs.sum())
        for row, span in samples_of(good):
            mine = (
                (good["image_rows"] == row)
                & (good["image_starts"] >= span.start)
                & (good["image_starts"] < span.stop)
                & differs
            )
            if mine.any():
                start = int(good["image_starts"][mine])
                masked = found["key_padding_mask"][row, span].nonzero().flatten() + span.start
                assert masked.tolist() == list(range(start, start + SLOTS))
                assert found["loss_mask"][row, span].sum() == 0 < good["loss_mask"][row, span].sum()
                shared += bool((good["segment_ids"][row] > 1).any())
            else:
                for key in ("key_padding_mask", "loss_mask"):
                    assert torch.equal(found[key][row, span], good[key][row, span])
        assert (found["image_data"][differs] == 0).all()
        for key in ("text_input_ids", "labels", "position_ids", "segment_ids"):
            assert torch.equal(found[key], good[key])
    assert blank.failed_images == failed > 5
    assert shared > 5, "rows with other samples beside the one whose image failed"
    with pytest.raises(ValueError, match=r"^first\.jsonl, line \d+: image .* cannot be read"):
        list(make(img_data_dir=broken, **options))


def test_a_batch_without_images_has_an_empty_image_array() -> None:
    batch = next(iter(create_dataloader(text_only(), IMAGES, 2)))
    assert batch["image_data"].shape == (0, 3, 112, 112)
    assert batch["image_data"].dtype == torch.float16
    for name in ("image_rows", "image_starts", "image_slots"):
        assert batch[name].shape == (0,)
        assert batch[name].dtype == torch.int32


@pytest.mark.slow
def test_rows_that_fill_the_last_batch_have_no_loss() -> None:
    loader = make(drop_last=False, batch_size=24)
    supervised = sum(int(batch["loss_mask"].sum()) for batch in loader)
    assert len(loader) * 24 > len(loader.dataset)
    assert supervised == sum(int(arrays["loss_mask"].sum()) for arrays, _ in fixed_samples().values())


@pytest.mark.slow
def test_weights_of_a_mixture_apply_to_rows() -> None:
    other = packed("second", 100)
    loader = create_dataloader(mixture=[(packed(), 3.0), (other, 1.0)], batch_size=8)
    dataset = LlavaH5Dataset(other)
    theirs = {text for row in range(len(dataset)) for text in texts_of(dataset.collator()([dataset[row]]))}
    rows = [
        text in theirs
        for batch in loader
        for row in range(8)
        for text in texts_of({name: batch[name][row : row + 1] for name in POSITIONS})[:1]
    ]
    assert abs(sum(rows) - len(rows) / 4) <= 2


def test_fixed_and_free_rows_are_refused_in_one_loader() -> None:
    for folders in ([packed(), second().root], [second().root, packed()]):
        with pytest.raises(DataDirError, match="packed or hold several images") as caught:
            create_dataloader(folders, batch_size=2)
        assert str(packed()) in str(caught.value).split(":")[0]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("packed", {"group_by_modality": True}, "are packed: each holds samples with and without images"),
        ("fixed", {"with_cu_seqlens": True}, "with_cu_seqlens is given, but the rows of .* are fixed"),
    ],
)
def test_unsupported_options_are_refused_in_one_sentence(kind: str, options: dict[str, Any], message: str) -> None:
    folder = packed() if kind == "packed" else first().root
    with pytest.raises(ValueError, match=message) as caught:
        create_dataloader(folder, batch_size=2, **options)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sample_number_out_of_range_is_refused() -> None:
    dataset = LlavaH5Dataset(packed())
    count = len(dataset[0]["sample_lengths"])
    dataset.source(0, count - 1)
    with pytest.raises(IndexError, match=f"sample {count} does not exist; the row has {count} samples"):
        dataset.source(0, count)
