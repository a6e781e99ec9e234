"""Encode arrays as HDF5 chunks in the format of the shuffle and deflate filters."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from hdf5_writer.schema import GZIP_LEVEL, DatasetSpec

# Level 0 is deterministic. With levels 1 and 2, the output of ISA-L depends on uninitialised memory: about one new
# process in twenty compressed small chunks to different bytes (isal 1.9.1).
_ISAL_LEVEL = 0


def compress_chunk(array: npt.NDArray[np.generic], width: int | None = None) -> bytes:
    """Apply HDF5's shuffle and deflate filters to a chunk; ISA-L is several times faster than zlib.

    `width`: number of columns before the padding; all columns after it must be equal.
    """
    data = np.ascontiguousarray(array)
    if data.dtype == np.dtype("<i4") and data.ndim == 2 and width is not None:
        data = _int_planes(data.view(np.uint32), width)
    elif data.dtype.itemsize > 1:
        data = np.ascontiguousarray(data.view(np.uint8).reshape(-1, data.dtype.itemsize).T)
    return isal_zlib.compress(data.data, _ISAL_LEVEL)


def _int_planes(array: npt.NDArray[np.uint32], width: int) -> npt.NDArray[np.uint8]:
    """Apply HDF5's shuffle: the first byte of every element, then the second byte of every element, …

    Bit shifts are several times faster than a transposition, and the bytes of padding columns are known.
    """
    planes = np.zeros((4, *array.shape), dtype=np.uint8)
    padding = int(array[0, -1]) if width < array.shape[1] else 0
    used = array[:, :width]
    for plane in range((max(int(used.max(initial=0)), padding).bit_length() + 7) // 8):
        np.right_shift(used, 8 * plane, out=planes[plane, :, :width], casting="unsafe", dtype=np.uint32)
        if padding >> 8 * plane:
            planes[plane, :, width:] = padding >> 8 * plane & 0xFF
    return planes


def compress_column(column: npt.NDArray[np.generic], spec: DatasetSpec) -> list[bytes]:
    """Compress a table column into chunks; the last chunk is padded with zeros."""
    entries = min(spec.per_chunk, len(column))
    chunks = []
    for start in range(0, len(column), entries or 1):
        part = column[start : start + entries]
        if len(part) < entries:
            part = np.concatenate((part, np.zeros((entries - len(part), *part.shape[1:]), dtype=part.dtype)))
        chunks.append(compress_chunk(part))
    return chunks


def write_chunks(
    file: h5py.File, spec: DatasetSpec, shape: tuple[int, ...], dtype: np.dtype[Any], chunks: list[bytes]
) -> None:
    """Create a dataset, and its group, from chunks that are already compressed."""
    stored = h5py.string_dtype("utf-8", dtype.itemsize) if spec.dtype == "path" else dtype
    if not shape[0]:
        file.create_dataset(spec.name, shape=shape, dtype=stored)
        return
    entries = min(spec.per_chunk, shape[0])
    dataset = file.create_dataset(
        spec.name,
        shape=shape,
        dtype=stored,
        chunks=(entries, *shape[1:]),
        compression="gzip",
        compression_opts=GZIP_LEVEL,
        shuffle=dtype.itemsize > 1,
    )
    start = (0,) * (len(shape) - 1)
    for number, chunk in enumerate(chunks):
        dataset.id.write_direct_chunk((number * entries, *start), chunk)
