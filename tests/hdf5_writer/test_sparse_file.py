"""A `SparseFile` holds what HDF5 writes to it, and unwritten ranges take no memory."""

from __future__ import annotations

import io

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdf5_writer.sparse_file import SparseFile

PLACE = st.integers(0, 200_000)
DATA = st.binary(min_size=0, max_size=40).map(lambda data: data * 3000)
ACTION = st.one_of(
    st.tuples(st.just("write"), PLACE, DATA), st.tuples(st.just("read"), PLACE, PLACE), st.tuples(st.just("cut"), PLACE)
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(actions=st.lists(ACTION, max_size=12))
def test_reads_writes_and_truncation_equal_those_of_bytesio(actions: list[tuple]) -> None:  # type: ignore[type-arg]
    ours, model = SparseFile(), io.BytesIO()
    for name, at, *rest in actions:
        if name == "cut":
            ours.truncate(at)
            size = len(model.getvalue())
            model.seek(size)
            model.write(bytes(max(0, at - size)))
            model.truncate(at)
            continue
        ours.seek(at)
        model.seek(at)
        if name == "write" and rest[0]:
            assert ours.write(rest[0]) == model.write(rest[0])
        elif name == "read":
            assert ours.read(rest[0]) == model.read(rest[0])
        assert ours.tell() == model.tell()
    assert b"".join(ours.with_replaced(0, 0, [])) == model.getvalue()


def test_filled_data_replaces_the_omitted_bytes() -> None:
    file = SparseFile()
    file.write(bytes(range(256)) * 1000)
    whole = bytes(range(256)) * 1000
    for offset, size in ((0, 5), (70_000, 66_000), (255_999, 1), (1000, 0)):
        filled = b"".join(file.with_replaced(offset, size, [b"x" * (size // 2), b"y" * (size - size // 2)]))
        assert filled == whole[:offset] + b"x" * (size // 2) + b"y" * (size - size // 2) + whole[offset + size :]


def test_terabytes_reserved_by_hdf5_take_kilobytes_on_disk() -> None:
    file, size = SparseFile(), 5 << 40
    with h5py.File(file, "w", libver=("v110", "v110")) as hdf5:
        hdf5["small"] = np.arange(1000)
        kind = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        kind.set_layout(h5py.h5d.CONTIGUOUS)
        kind.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        kind.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        h5py.h5d.create(hdf5.id, b"large", h5py.h5t.STD_U8LE, h5py.h5s.create_simple((size,)), kind)
        hdf5.attrs["late"] = 7
    assert file.size > size
    assert len(file._pages) < 10
    with h5py.File(file, "r") as hdf5:
        assert (hdf5["small"][999], hdf5["large"].shape, hdf5.attrs["late"]) == (999, (size,), 7)
