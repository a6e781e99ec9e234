from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import pytest
from isal import isal_zlib

from hdf5_writer import shard as shard_module
from hdf5_writer.chunks import compress_chunk
from hdf5_writer.fitting import fit_samples
from hdf5_writer.row_stream import Samples
from hdf5_writer.rows import RowLayout
from hdf5_writer.schema import CONTENT_DATA, DATASETS, SchemaError, ShardSize, check_version
from hdf5_writer.shard import ShardBuilder
from preprocess.samples import Sample, batch_of, join_batches

LAYOUT = RowLayout(max_sequence_length=40, num_patches=4, image_start_idx=2, pad_id=0, truncate=True)


def sequence(row: int) -> Sample:
    length = 5 + row % 30
    ids = np.arange(row * 100, row * 100 + length, dtype=np.int32) + 1
    return Sample(ids, [(4, length)], () if row % 3 == 0 else (2,))


def path_of(row: int) -> str | None:
    return None if row % 3 == 0 else f"ü/{row}.png"


def add(builder: ShardBuilder, rows: Sequence[int]) -> None:
    batch = join_batches([batch_of(sequence(row)) for row in rows])
    batch, facts, failed = fit_samples(batch, LAYOUT)
    assert not failed
    files, lines = np.array([row % 2 for row in rows]), np.array([row + 1 for row in rows])
    samples = Samples(batch, facts, files, lines, [path for path in map(path_of, rows) if path])
    builder.add(samples, np.ones(len(rows), np.int64))


def build(rows: int, at_a_time: int = 50) -> bytes:
    builder = ShardBuilder(LAYOUT, {"schema_version": "2.0", "pad_id": 0})
    for start in range(0, rows, at_a_time):
        add(builder, range(start, min(start + at_a_time, rows)))
    assert builder.counts.rows == rows
    return b"".join(builder.finish().parts())


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 65, 128, 200])
def test_any_hdf5_library_reads_back_the_rows(rows: int) -> None:
    with h5py.File(io.BytesIO(build(rows)), "r") as file:
        images = sum(row % 3 > 0 for row in range(rows))
        assert {name: file.attrs[name] for name in ("n_examples", "n_samples", "n_images")} == {
            "n_examples": rows,
            "n_samples": rows,
            "n_images": images,
        }
        assert names_in(file) == {*DATASETS, CONTENT_DATA}
        for name, spec in DATASETS.items():
            assert file[name].shape == spec.shape(ShardSize(rows, rows, images, 0, 0), 40)
            if spec.dtype != "path":
                assert file[name].dtype == np.dtype(spec.dtype)
        ids, lengths = file["text_input_ids"][:], file["samples/length"][:]
        offsets, paths = file["images/offsets"][:], file["images/path"][:]
        assert file["samples/offsets"][:].tolist() == list(range(rows + 1))
        assert not file["samples/start"][:].any()
        assert file["images/start"][:].tolist() == [2] * images
        assert file["images/slots"][:].tolist() == [4] * images
        for row in range(rows):
            expected = sequence(row)
            used = len(expected.ids) + 4 - 1
            assert ids[row, :2].tolist() == expected.ids[:2].tolist()
            assert ids[row, 6:used].tolist() == expected.ids[2:-1].tolist()
            assert lengths[row] == used
            shown = [path.decode() for path in paths[offsets[row] : offsets[row + 1]]]
            assert shown == ([f"ü/{row}.png"] if row % 3 else [])
        assert file["samples/source_line"][:].tolist() == list(range(1, rows + 1))
        assert file["samples/source_file"][:].tolist() == [row % 2 for row in range(rows)]


def names_in(file: h5py.File) -> set[str]:
    names: set[str] = set()
    file.visititems(lambda name, found: names.add(name) if isinstance(found, h5py.Dataset) else None)
    return names


def test_only_filters_that_every_hdf5_library_has_are_used() -> None:
    with h5py.File(io.BytesIO(build(70)), "r") as file:
        for name in (name for name in DATASETS if len(file[name])):
            plist = file[name].id.get_create_plist()
            codes = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
            assert codes <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}
            assert h5py.h5z.FILTER_DEFLATE in codes
        assert file["images/path"].dtype == np.dtype("S9")  # "ü/67.png" in UTF-8
        assert h5py.check_string_dtype(file["images/path"].dtype).encoding == "utf-8"


def test_shard_bytes_depend_only_on_the_rows() -> None:
    assert build(130) == build(130)
    assert build(130) != build(129)


@pytest.mark.parametrize("at_a_time", [1, 7, 64, 200])
def test_shard_bytes_do_not_depend_on_how_rows_are_batched(at_a_time: int) -> None:
    assert build(200, at_a_time) == build(200)


def test_hdf5_itself_rejects_a_damaged_chunk() -> None:
    image = build(70)
    with h5py.File(io.BytesIO(image), "r") as file:
        wanted: dict[str, Any] = {name: file[name][:] for name in DATASETS}
        chunks = [
            (name, info.byte_offset + at)
            for name in DATASETS
            if len(file[name])
            for info in [file[name].id.get_chunk_info(0)]
            for at in (2, info.size // 2, info.size - 1)
        ]
    for name, offset in chunks:
        damaged = bytearray(image)
        damaged[offset] ^= 0x10
        with h5py.File(io.BytesIO(bytes(damaged)), "r") as file:
            try:
                found = file[name][:]
            except OSError:
                continue
        # A flipped bit that the compressed stream does not use may go undetected, but must not give wrong rows.
        assert np.array_equal(found, wanted[name]), (name, offset)


def test_no_data_is_stored_in_the_heap_without_a_checksum() -> None:
    """HDF5 2.0 loops forever on a flipped bit in its heap of variable-length strings."""
    image = build(70)
    assert b"GCOL" not in image, "the signature of that heap"
    with h5py.File(io.BytesIO(image)) as file:
        assert file.attrs["schema_version"] == b"2.0"
        assert file.attrs.get_id("schema_version").get_type().get_size() == 3


def test_counts_add_up() -> None:
    builder = ShardBuilder(LAYOUT, {})
    add(builder, range(90))
    counts = builder.counts
    image = b"".join(builder.finish().parts())
    with h5py.File(io.BytesIO(image), "r") as file:
        attended = int((file["key_padding_mask"][:] == 0).sum())
        assert counts.text_tokens + 4 * counts.images == attended
        assert counts.supervised == int(file["loss_mask"][:].sum())
        assert counts.samples_with_image == counts.images == len(file["images/path"])
        assert sum(counts.lengths.values()) == 90


@pytest.mark.parametrize("found", ["3.0", "1.0", None, "x", 7])
def test_another_major_version_is_refused(found: object) -> None:
    with pytest.raises(SchemaError, match=r"file\.h5"):
        check_version(found, "file.h5")


def test_a_newer_minor_version_is_read() -> None:
    check_version("2.99", "file.h5")


@pytest.mark.parametrize("top", [0, 200, 32_000, 70_000, 2**31 - 1])
def test_the_fast_shuffle_filter_equals_that_of_hdf5(top: int) -> None:
    values = np.random.default_rng(0).integers(-5 if top > 2**30 else 0, top, (3, 70), dtype="<i4", endpoint=True)
    transposed = isal_zlib.compress(np.ascontiguousarray(values.view(np.uint8).reshape(-1, 4).T).data, 0)
    assert compress_chunk(values) == transposed
    assert compress_chunk(values, 70) == transposed
    for padding in (0, 2, 300, 70_000):
        values[:, 40:] = padding
        transposed = isal_zlib.compress(np.ascontiguousarray(values.view(np.uint8).reshape(-1, 4).T).data, 0)
        assert all(compress_chunk(values, width) == transposed for width in (40, 41, 70))


_COMPRESS = """
import hashlib, numpy as np
from hdf5_writer.chunks import compress_chunk
random, digest = np.random.default_rng(0), hashlib.sha256()
for size in (7, 98, 392, 3000, 70_000):
    for _ in range(30):
        digest.update(compress_chunk((random.random(size) < 0.3).astype("|u1")))
        digest.update(compress_chunk(random.integers(0, 2, size, dtype="<i4")))
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_every_process_compresses_to_the_same_bytes() -> None:
    """Bytes must not depend on uninitialised memory of a new process, as they do at ISA-L's levels 1 and 2."""
    found = {
        subprocess.run([sys.executable, "-c", _COMPRESS], capture_output=True, check=True).stdout for _ in range(6)
    }
    assert len(found) == 1


def build_with(monkeypatch: pytest.MonkeyPatch, damaged_block: int, rows: int, *, verify_all: bool) -> None:
    """Build with a compressor that writes 7s into one block of labels."""
    blocks = 0

    def compress(array: Any, width: int | None = None) -> bytes:
        nonlocal blocks
        if array.ndim == 2 and array.dtype == np.int32:
            blocks += 1
            if (blocks - 1) // 2 == damaged_block:
                array = np.full_like(array, 7)
        return compress_chunk(array, width)

    monkeypatch.setattr(shard_module, "compress_chunk", compress)
    builder = ShardBuilder(LAYOUT, {"schema_version": "2.0", "pad_id": 0}, verify_all=verify_all)
    add(builder, range(rows))
    builder.finish()


@pytest.mark.parametrize("damaged_block", [0, 1])
def test_wrong_output_of_the_compressor_is_detected(monkeypatch: pytest.MonkeyPatch, damaged_block: int) -> None:
    with pytest.raises(RuntimeError, match="read-back mismatch: HDF5 returned other values of text_input_ids"):
        build_with(monkeypatch, damaged_block, 128, verify_all=False)


def test_every_block_is_read_back_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    build_with(monkeypatch, 3, 400, verify_all=False)  # not among the sampled ones
    with pytest.raises(RuntimeError, match="rows 192 to 255"):
        build_with(monkeypatch, 3, 400, verify_all=True)
