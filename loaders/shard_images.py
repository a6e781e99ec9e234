"""Read images that are stored in the shards: one file read and one checksum per image."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
from isal import isal_zlib

from hdf5_writer.schema import CONTENT_DATA
from loaders.blocks import Array, StoredImage
from loaders.data_dir import Shard
from loaders.image_transform import ImageError, ImageTransform
from loaders.shard_reader import ShardReader
from preprocess.image_files import error_message, opened_image

# Number of shards whose tables are cached; they take about 16 bytes per image.
_CACHED_SHARDS = 64


class _Tables(NamedTuple):
    """Locations of the images in a shard.

    Attributes:
        data_offset: offset of `contents/data` in the file, in bytes.
        content: content number of each image.
        begin, crc32: offset and CRC-32 of each content.
    """

    data_offset: int
    content: Array
    begin: Array
    crc32: Array


class ShardImages:
    """An `ImageSource` for images stored in the shards."""

    def __init__(
        self, reader: ShardReader, shards: Sequence[Shard], transform: ImageTransform, *, verify: bool = False
    ) -> None:
        """Set up; reads nothing.

        Args:
            reader: reader of the same shards.
            shards: the shards; their parameters give the form of stored images.
            transform: transforms `encoded` images; for `pixels`, only its normalisation is applied.
            verify: also check the CRC-32 of pixels; that of image files is always checked.
        """
        self._reader = reader
        self._shards = shards
        self._transform = transform
        self._verify = verify
        self._reset()

    def _reset(self) -> None:
        self._tables: OrderedDict[int, _Tables] = OrderedDict()
        self._scratch = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_tables", "_scratch")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def describe(self, shard: int, image: StoredImage) -> str:
        """See `ImageSource.describe`."""
        return f"image {image.path.decode()} in {self._shards[shard].path}"

    def read(self, shard: int, image: StoredImage, out: torch.Tensor) -> None:
        """See `ImageSource.read`."""
        tables = self._tables_of(shard)
        content = int(tables.content[image.number])
        begin, end = int(tables.begin[content]), int(tables.begin[content + 1])
        data = self._buffer(end - begin)
        is_pixels = self._shards[shard].params.store_images == "pixels"
        if self._reader.read_into(shard, tables.data_offset + begin, data) != len(data):
            raise ImageError("the shard ends inside the image")
        if (self._verify or not is_pixels) and isal_zlib.crc32(data.data) != tables.crc32[content]:
            raise ImageError("the bytes in the shard do not match their CRC-32")
        if is_pixels:
            self._transform.normalise(data.reshape(out.shape), out)
            return
        try:
            with opened_image(BytesIO(data.data)) as opened:
                self._transform.into(opened, out)
        except Exception as error:  # Pillow's plugins can raise any exception for a damaged file
            raise ImageError(error_message(error)) from None

    def _buffer(self, size: int) -> Array:
        """Return a reusable buffer of `size` bytes, since allocating new memory costs as much as reading into it."""
        buffer: Array | None = getattr(self._scratch, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = self._scratch.buffer = np.empty(size, dtype=np.uint8)
        return buffer[:size]

    def _tables_of(self, shard: int) -> _Tables:
        if shard not in self._tables:
            names = ("images/content", "contents/begin", "contents/crc32")
            columns = [self._reader.whole_column(shard, name) for name in names]
            self._tables[shard] = _Tables(self._reader.offset_of(shard, CONTENT_DATA), *columns)
            if len(self._tables) > _CACHED_SHARDS:
                self._tables.popitem(last=False)
        self._tables.move_to_end(shard)
        return self._tables[shard]
