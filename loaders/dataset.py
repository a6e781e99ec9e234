"""The rows of one or several datasets, with their images, as a map-style torch dataset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from loaders.blocks import Array, Block, gather
from loaders.collate import Collator
from loaders.data_dir import DataDir, DataDirError, read_data_dir, require_alike
from loaders.image_transform import ImageError, ImageTransform, read_image
from loaders.samples import Sample, Samples, WithoutLoss
from loaders.shard_reader import BLOCK_ROWS, ShardReader
from preprocess.image_files import is_inside
from preprocess.square_images import AspectRatio

OnImageError = Literal["raise", "blank"]
Folders = str | Path | Sequence[str | Path]
_log = logging.getLogger(__name__)
# Failed images that each process logs; the loader counts all of an epoch.
_MOST_LOGGED = 10


class LlavaH5Dataset(Dataset[Sample]):
    """Rows of datasets written by `create_hdf5_dataset`, one dataset after the other, shard after shard.

    A sample has the keys of a batch without its first axis: `text_input_ids`, `labels` (max_sequence_length,) int32,
    `loss_mask`, `key_padding_mask` (max_sequence_length,) uint8, all read-only numpy arrays; `has_image` bool;
    `image_data` (3, image_size, image_size) where `img_data_dir` is given; and for the collator `used_length` (the
    position behind the last one attended) and `image_failed`.

    Files are opened when the first row is asked for, in whatever process asks.
    """

    def __init__(
        self,
        data_dirs: Folders,
        img_data_dir: Folders | None = None,
        *,
        image_aspect_ratio: AspectRatio = "square",
        image_dtype: torch.dtype = torch.float16,
        on_image_error: OnImageError = "raise",
        cache_blocks: int = 32,
        open_files: int = 16,
        threads: int = 1,
        verify: bool = False,
    ) -> None:
        """Check the folders; reads no rows.

        Args:
            data_dirs: a folder, or several whose rows can stand in one batch.
            img_data_dir: the folder that `image_paths` are relative to, or one for each of `data_dirs`; None reads
                no images, and samples have no `image_data`.
            image_aspect_ratio, image_dtype: see `loaders.image_transform.ImageTransform`.
            on_image_error: "raise", or "blank": zeros, image slots masked, loss off, `has_image` False.
            cache_blocks: decoded blocks (of 64 rows) that are kept in each process.
            open_files: shard files kept open in each process.
            threads: that decode the blocks of a batch; 1 for a dataset that several processes read.
            verify: compare the sha256 of each shard before a process first reads it.

        Raises:
            DataDirError: a folder is no whole dataset, or disagrees with the first.
            ValueError: an argument is none of those it may be.
        """
        if on_image_error not in get_args(OnImageError):
            raise ValueError(f"on_image_error is {on_image_error!r}, expected 'raise' or 'blank'")
        folders = _as_list(data_dirs)
        if not folders:
            raise DataDirError("no dir is given; give a folder that create_hdf5_dataset wrote")
        if cache_blocks < 1 or open_files < 1:
            raise ValueError(f"cache_blocks is {cache_blocks} and open_files {open_files}, expected at least 1")
        self.data_dirs: tuple[DataDir, ...] = tuple(read_data_dir(folder) for folder in folders)
        require_alike(self.data_dirs)
        self._image_dirs = None if img_data_dir is None else _image_dirs(img_data_dir, self.data_dirs)
        first = self.data_dirs[0]
        self._transform = ImageTransform(first.image_size, image_aspect_ratio, image_dtype)
        self._blank_failures = on_image_error == "blank"
        self._image_slots = slice(first.image_start_idx, first.image_start_idx + first.num_patches)
        shards = [shard for data_dir in self.data_dirs for shard in data_dir.shards]
        self._dir_of_shard = [number for number, dir_ in enumerate(self.data_dirs) for _ in dir_.shards]
        self._shard_rows = [shard.rows for shard in shards]
        self._starts = np.concatenate(([0], np.cumsum(self._shard_rows, dtype=np.int64)))
        self._reader = ShardReader(
            shards, cache_blocks=cache_blocks, open_files=open_files, threads=threads, verify=verify
        )
        self._modality_lengths: npt.NDArray[np.int32] | None = None
        self._failures = 0

    def __len__(self) -> int:
        """Rows in all dirs."""
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> Sample:
        """One sample; see `__getitems__`."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> Samples:
        """Several samples, each block of the shards read once.

        Args:
            rows: their numbers, negative ones from the end; those that are `loaders.samples.WithoutLoss` come with
                `loss_mask` 0.

        Raises:
            IndexError: no such row.
            ImageError: an image cannot be read, with the row's source file and line.
            loaders.shard_reader.ShardError: a shard is damaged.
        """
        shards, numbers = self._places(rows)
        blocks, places = np.divmod(numbers, BLOCK_ROWS)
        keys = list(zip(shards.tolist(), blocks.tolist(), strict=True))
        found = self._reader.blocks(sorted(set(keys)))
        text = gather([found[key] for key in keys], places.tolist())
        has_image = text.modality_lengths > 0
        loss_off = np.fromiter((isinstance(row, WithoutLoss) for row in rows), dtype=bool, count=len(rows))
        slots = self._image_slots
        used_lengths = np.where(has_image, text.modality_lengths, slots.stop - slots.start - text.modality_lengths)
        failed = np.zeros(len(rows), dtype=bool)
        images: list[torch.Tensor] | None = None
        if self._image_dirs is not None:
            images = []
            for i, ((shard, _), row) in enumerate(zip(keys, numbers.tolist(), strict=True)):
                image = self._image(text, shard, row, i) if has_image[i] else None
                failed[i] = has_image[i] and image is None
                images.append(self._transform.blank() if image is None else image)
            text.key_padding_mask[failed, slots] = 1
        text.loss_mask[loss_off | failed] = 0
        return Samples(text, has_image & ~failed, failed, used_lengths, images)

    @property
    def modality_lengths(self) -> npt.NDArray[np.int32]:
        """Positions attended of every row, (rows,) int32: positive with an image, negative for text only."""
        if self._modality_lengths is None:
            columns = [self._reader.modality_lengths(shard, 0, rows) for shard, rows in enumerate(self._shard_rows)]
            self._modality_lengths = np.concatenate(columns).astype(np.int32, copy=False)
        return self._modality_lengths

    def collator(self, *, trim_to: int | None = None, ignore_index: int | None = None) -> Collator:
        """The collator for samples of this dataset; see `loaders.collate.Collator`."""
        return Collator(
            max_sequence_length=self.data_dirs[0].max_sequence_length,
            image_end=self._image_slots.stop,
            trim_to=trim_to,
            ignore_index=ignore_index,
        )

    def blocks(self, data_dir: int) -> tuple[list[int], list[int]]:
        """First rows and sizes of the blocks of one of `data_dirs`: what is read at once, never across shards."""
        starts: list[int] = []
        sizes: list[int] = []
        for shard, rows in enumerate(self._shard_rows):
            if self._dir_of_shard[shard] == data_dir:
                first = int(self._starts[shard])
                starts += range(first, first + rows, BLOCK_ROWS)
                sizes += [min(BLOCK_ROWS, rows - start) for start in range(0, rows, BLOCK_ROWS)]
        return starts, sizes

    def source(self, row: int) -> tuple[str, int]:
        """Input file and line, from 1, that a row was made of."""
        shards, numbers = self._places([row])
        return self._source(int(shards[0]), int(numbers[0]))

    def _places(self, rows: Sequence[int]) -> tuple[Array, Array]:
        """The shard of each row, and its number in that shard."""
        numbers = np.asarray(rows, dtype=np.int64)
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        wrong = (numbers < 0) | (numbers >= len(self))
        if wrong.any():
            raise IndexError(f"row {rows[int(wrong.argmax())]} is asked for, but there are {len(self)} rows")
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        return shards, numbers - self._starts[shards]

    def _source(self, shard: int, row: int) -> tuple[str, int]:
        file = int(self._reader.column(shard, "samples/source_file", row, row + 1)[0])
        line = int(self._reader.column(shard, "samples/source_line", row, row + 1)[0])
        return self.data_dirs[self._dir_of_shard[shard]].inputs[file], line

    def _image(self, block: Block, shard: int, row: int, place: int) -> torch.Tensor | None:
        """The image of a row; None where it fails and failures are left blank."""
        assert self._image_dirs is not None
        stored: bytes = block.image_paths[place]
        path = stored.decode()
        try:
            if not is_inside(path):
                raise ImageError("the path leads out of the folder")
            return read_image(self._image_dirs[self._dir_of_shard[shard]] / path, self._transform)
        except ImageError as error:
            file, line = self._source(shard, row)
            said = (
                f"image {path} in {self._image_dirs[self._dir_of_shard[shard]]}, of {file}, line {line}, "
                f"cannot be read ({error})"
            )
            if self._blank_failures:
                self._failures += 1
                if self._failures <= _MOST_LOGGED:
                    _log.warning("%s; the row is left blank", said)
                return None
            raise ImageError(f'{said}; restore the file, or give on_image_error="blank" to train without it') from None


def _as_list(folders: Folders) -> list[str | Path]:
    return [folders] if isinstance(folders, (str, Path)) else list(folders)


def _image_dirs(img_data_dir: Folders, data_dirs: Sequence[DataDir]) -> list[Path]:
    folders = [Path(folder).expanduser() for folder in _as_list(img_data_dir)]
    for folder in folders:
        if not folder.is_dir():
            raise DataDirError(f"img_data_dir {folder}: no such folder; give the one that image paths are relative to")
    if len(folders) not in (1, len(data_dirs)):
        raise DataDirError(
            f"img_data_dir has {len(folders)} folders for {len(data_dirs)} data dirs; give one for all, or one for each"
        )
    return folders * len(data_dirs) if len(folders) == 1 else folders
