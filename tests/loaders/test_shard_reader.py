"""Blocks of shards: the same values as with h5py, damage is detected, few open files and reads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("torch", reason="the loaders need torch")

from conftest import CHECKOUT, turn_pair
from written import Written, first, read_written, records_of, second, write_dataset

from loaders import DataDirError, LlavaH5Dataset, ShardError, create_dataloader
from loaders.blocks import gather, make_block
from loaders.data_dir import read_data_dir
from loaders.shard_reader import BLOCK_ROWS, ShardReader


def read_all(written: Written, **options: Any) -> None:
    """Compare all rows of a dataset, read together and one by one, with those that h5py reads."""
    dataset = LlavaH5Dataset(written.root, **options)
    assert len(dataset) == written.rows
    numbers = np.random.default_rng(0).permutation(written.rows).tolist()
    for sample, row in zip(dataset.__getitems__(numbers), numbers, strict=True):
        for name in ("text_input_ids", "labels", "loss_mask", "key_padding_mask"):
            assert sample[name].dtype == written.arrays[name].dtype
            assert np.array_equal(sample[name], written.arrays[name][row])
        assert sample["has_image"] == (written.arrays["modality_lengths"][row] > 0)
    assert np.array_equal(dataset.modality_lengths, written.arrays["modality_lengths"])


def test_rows_equal_those_that_h5py_reads() -> None:
    read_all(first())
    read_all(second(), cache_blocks=1, open_files=1)


@pytest.mark.long
def test_rows_beyond_the_first_chunk_of_narrow_datasets_are_read(tmp_path: Path) -> None:
    records = records_of(4200, "many")
    small = {"processor__max_sequence_length": 64, "dataset__image_size": 28}
    written = write_dataset(tmp_path, records=records, samples_per_shard=5000, **small)
    with h5py.File(written.root / "examples-00000-of-00001.h5") as file:
        assert file["samples/source_line"].chunks[0] < written.rows < 5000
    read_all(written)
    dataset = LlavaH5Dataset(written.root)
    assert [dataset.source(row)[1] for row in (0, 4095, 4096, 4150)] == [
        written.arrays["source_line"][row] for row in (0, 4095, 4096, 4150)
    ]


@pytest.mark.slow
def test_shards_of_no_row_and_of_one_row_are_read(tmp_path: Path) -> None:
    broken = {"conversations": turn_pair("Question?", "")}
    records = [*records_of(3, "few"), broken, broken, broken, *records_of(1, "one")]
    written = write_dataset(tmp_path, records=records, samples_per_shard=3, setup__max_reject_fraction=1.0)
    assert [shard.rows for shard in read_data_dir(written.root).shards] == [3, 0, 1]
    read_all(written)
    for shuffle in (True, False):
        loader = create_dataloader(written.root, batch_size=2, shuffle=shuffle)
        assert sum(len(batch["labels"]) for batch in loader) == 4


def test_ids_of_more_than_two_bytes_are_read(tmp_path: Path) -> None:
    """The fast path for small ids must not be used for large ones."""
    written = write_dataset(tmp_path, records=10, samples_per_shard=10)
    reader = ShardReader(read_data_dir(written.root).shards)
    chunks = reader._index(0)["labels"]
    for value in (65_535, 65_536, 2**31 - 1, -1):
        entries = chunks.entries_per_chunk
        array = np.arange(entries * 256, dtype="<i4").reshape(entries, 256)
        array[0, 0] = value
        from hdf5_writer.shard import compress_chunk

        planes = chunks.planes(compress_chunk(array))
        assert len(planes) == (2 if value == 65_535 else 4)
        masks = np.zeros(array.shape, np.uint8)
        small = np.zeros((2, *array.shape), np.uint8)
        tables: dict[str, Any] = {"lengths": [[256]] * len(array), "images": [[]] * len(array)}
        block = make_block(planes, small, masks, masks, **tables)
        assert np.array_equal(block.text_input_ids, array)
        assert not block.labels.any()
        other = make_block(small, small, masks + 1, masks, **tables)
        mixed = gather([other, block], [1, 0]).text(256).tensors()
        assert mixed["text_input_ids"].tolist() == [[0] * 256, array[0].tolist()]
        assert mixed["loss_mask"].float().mean() == 0.5


def test_arrays_of_a_row_are_read_only() -> None:
    sample = LlavaH5Dataset(first().root)[0]
    with pytest.raises(ValueError, match="read-only"):
        sample["labels"][0] = 1


def test_a_row_number_out_of_range_is_refused() -> None:
    with pytest.raises(IndexError, match="row 300 does not exist; there are 300"):
        LlavaH5Dataset(first().root)[300]


def test_hdf5_is_opened_once_per_shard_and_a_batch_reads_each_block_once(monkeypatch: pytest.MonkeyPatch) -> None:
    root = first().root
    opened: list[int] = []
    reads: list[int] = []
    real_file, real_pread = h5py.File, os.pread
    monkeypatch.setattr(h5py, "File", lambda *a: opened.append(os.fstat(a[0].fileno()).st_ino) or real_file(*a))
    monkeypatch.setattr(os, "pread", lambda *a: reads.append(a[2]) or real_pread(*a))
    dataset = LlavaH5Dataset(root)
    for _ in range(2):
        dataset.__getitems__(list(range(0, 300, 3)))
    assert len(opened) == len(set(opened)) == 5
    blocks = 4 * 2 + 1  # four shards of 64 and 6 rows, one of 20
    narrow = (2 + 4) * 5  # offsets and lengths of samples; offsets, paths, starts and slots of images
    assert len(reads) == 4 * blocks + narrow


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the first dataset, to be damaged."""
    return Path(shutil.copytree(first().root, tmp_path / "copied"))


def chunk_place(shard: Path, name: str, number: int) -> tuple[int, int]:
    with h5py.File(shard) as file:
        info = file[name].id.get_chunk_info(number)
        return info.byte_offset, info.size


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "labels",
        *(
            pytest.param(name, marks=pytest.mark.faults)
            for name in ("text_input_ids", "loss_mask", "key_padding_mask", "images/path")
        ),
    ],
)
def test_a_flipped_bit_anywhere_in_a_chunk_is_detected(copied: Path, name: str) -> None:
    """HDF5 would detect it by the Adler-32 of the stream; the reader bypasses HDF5 and must detect it too.

    A bit can have no effect, where a run of zeros is copied from another offset; then there is nothing to detect.
    """
    shard = copied / "examples-00001-of-00005.h5"
    offset, size = chunk_place(shard, name, 0)
    whole = shard.read_bytes()
    undetected = 0
    messages = set()
    for place in sorted({*range(0, size, max(1, size // 25)), size - 4, size - 3, size - 2, size - 1}):
        data = bytearray(whole)
        data[offset + place] ^= 0x10
        shard.write_bytes(data)
        reader = ShardReader(read_data_dir(copied).shards)
        reader.block(0, 0)
        try:
            block = reader.block(1, 0)
        except ShardError as error:
            messages.add(str(error).split(" (")[0])
            continue
        undetected += 1
        assert place < size - 4, "the checksum itself"
        if name == "images/path":
            expected = [[path] if path else [] for path in first().arrays["image_paths"][70:134].tolist()]
            assert [[image.path for image in images] for images in block.images] == expected
        else:
            assert np.array_equal(getattr(block, name), first().arrays[name][70:134])
    assert undetected < 7
    assert messages == {f"{shard}: {name} is damaged from entry 0 on"}


def test_damaged_structure_is_a_shard_error(copied: Path) -> None:
    shard = copied / "examples-00000-of-00005.h5"
    data = bytearray(shard.read_bytes())
    data[:8] = bytes(8)
    shard.write_bytes(data)
    with pytest.raises(ShardError, match="not a shard of this project, or is damaged"):
        LlavaH5Dataset(copied)[0]


def test_a_changed_attribute_is_refused_and_verify_compares_the_whole_file(copied: Path) -> None:
    shard = copied / "examples-00003-of-00005.h5"
    size = shard.stat().st_size
    with h5py.File(shard, "r+") as file:
        file.attrs.modify("pad_id", np.int64(77))
    assert shard.stat().st_size == size
    with pytest.raises(ShardError, match="attribute pad_id is 77, expected 0"):
        LlavaH5Dataset(copied)[3 * 70]
    with pytest.raises(ShardError, match=r"00003-of-00005.h5: has sha256 \w{64}, expected \w{64}"):
        LlavaH5Dataset(copied, verify=True)[3 * 70]
    LlavaH5Dataset(copied, verify=True)[2 * 70]


def test_a_shard_that_cannot_be_opened_is_a_shard_error(copied: Path, forbid: Callable[[Path], None]) -> None:
    data_dir = read_data_dir(copied)
    shard = data_dir.shards[0].path
    forbid(shard)
    with pytest.raises(ShardError, match=rf"^{shard}: cannot be read \(Permission denied\); make it readable$"):
        ShardReader(data_dir.shards).block(0, 0)


def test_a_shard_already_open_in_the_process_can_be_read(copied: Path) -> None:
    with h5py.File(copied / "examples-00000-of-00005.h5") as file:
        assert np.array_equal(LlavaH5Dataset(copied)[0]["labels"], file["labels"][0])


def test_a_shard_of_another_size_is_refused_before_reading(copied: Path) -> None:
    shard = copied / "examples-00002-of-00005.h5"
    dataset = LlavaH5Dataset(copied)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DataDirError, match=f"00002-of-00005.h5: has {len(whole) - 1} bytes, expected {len(whole)}"):
        LlavaH5Dataset(copied)
    with pytest.raises(ShardError, match="it was changed during reading"):
        dataset[150]
    shard.unlink()
    with pytest.raises(DataDirError, match=r"00002-of-00005.h5: is missing"):
        LlavaH5Dataset(copied)


_MANY_SHARDS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from loaders import create_dataloader
for workers in (0, 2):
    loader = create_dataloader(sys.argv[1], batch_size=40, num_workers=workers)
    print(sum(len(batch["labels"]) for batch in loader))
"""


@pytest.mark.long
def test_more_shards_than_the_limit_of_open_files_are_read(tmp_path: Path) -> None:
    small = {"processor__max_sequence_length": 64, "dataset__image_size": 28}
    write_dataset(tmp_path, records=80, samples_per_shard=1, **small)
    root = tmp_path / "out"
    assert len(read_written(root).arrays["labels"]) == len(list(root.glob("*.h5"))) == 80
    done = subprocess.run(
        [sys.executable, "-c", _MANY_SHARDS, str(root)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["80", "80"], done.stderr


@pytest.mark.slow
def test_threads_may_share_a_reader() -> None:
    """With one open file and one cached block, each read of one thread closes the file of another."""
    reader = ShardReader(read_data_dir(first().root).shards, open_files=1, cache_blocks=1)
    expected = first().arrays["labels"]

    def read(seed: int) -> bool:
        shards = np.random.default_rng(seed).integers(0, 5, 200)
        return all(
            np.array_equal(reader.block(shard, 0).labels, expected[shard * 70 :][: min(64, 300 - shard * 70)])
            for shard in shards.tolist()
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


@pytest.mark.slow
def test_files_are_closed_with_the_reader() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        LlavaH5Dataset(first().root).__getitems__(list(range(300)))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_block_rows_equals_the_rows_of_a_chunk() -> None:
    with h5py.File(first().root / "examples-00000-of-00005.h5") as file:
        assert file["labels"].chunks[0] == BLOCK_ROWS
