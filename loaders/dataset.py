"""A map-style torch dataset of the rows of one or several datasets, with their images."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, get_worker_info

from loaders.blocks import Array, Block, StoredImage, gather
from loaders.collate import Collator
from loaders.data_dir import DataDir, DataDirError, read_data_dir, require_compatible
from loaders.image_source import ImageFiles, ImageSource
from loaders.image_transform import ImageError, ImageTransform
from loaders.samples import Sample, Samples, WithoutLoss
from loaders.shard_images import ShardImages
from loaders.shard_reader import BLOCK_ROWS, ShardReader
from preprocess.square_images import AspectRatio

OnImageError = Literal["raise", "blank"]
Folders = str | Path | Sequence[str | Path]
_log = logging.getLogger(__name__)
# Maximum number of failed images that each process logs; the loader counts all of them.
_MAX_LOGGED = 10


class LlavaH5Dataset(Dataset[Sample]):
    """Rows of datasets written by `create_hdf5_dataset`, one dataset after the other, shard after shard.

    A sample has the keys of a batch without its first axis: `text_input_ids`, `labels` (max_sequence_length,) int32,
    `loss_mask`, `key_padding_mask` (max_sequence_length,) uint8, all read-only numpy arrays; `has_image` bool;
    `image_data` (3, image_size, image_size) if images are read; and for the collator `used_length` (the position
    after the last one that is not padding) and `image_failed`.

    A free row (packed, or with several images) with k samples and m images has, instead of `has_image` and
    `used_length`, `sample_lengths` (k,), `image_start` and `image_slots` (m,) int32, `image_failed` (m,) bool, and
    `image_data` (m, 3, image_size, image_size).

    Files are opened in the process that reads the first row.

    Attributes:
        are_free: whether the rows are free.
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
        pin_memory: bool = False,
        verify: bool = False,
    ) -> None:
        """Check the folders; reads no rows.

        Args:
            data_dirs: one or several folders, whose rows must be compatible.
            img_data_dir: the folder that image paths are relative to, or one for each of `data_dirs` that does not
                store its images. None reads only stored images; without any, samples have no `image_data`.
            image_aspect_ratio, image_dtype: see `loaders.image_transform.ImageTransform`.
            on_image_error: "raise"; or "blank": the image becomes zeros, its slots are masked, the loss of its sample
                is switched off, and `has_image` is False.
            cache_blocks: number of decoded blocks (of 64 rows) kept in each process.
            open_files: number of shard files kept open in each process.
            threads: number of threads that decode the blocks of a batch; 1 if several processes read the dataset.
            pin_memory: read images into memory pinned for a GPU, in this process.
            verify: compare the sha256 of each shard before a process first reads it, and check stored pixels.

        Raises:
            DataDirError: a folder is not a finished dataset, is incompatible with the first, or stores pixels of the
                other aspect ratio.
            ValueError: an argument is invalid.
        """
        if on_image_error not in get_args(OnImageError):
            raise ValueError(f"on_image_error is {on_image_error!r}, expected 'raise' or 'blank'")
        folders = _as_list(data_dirs)
        if not folders:
            raise DataDirError("no folder is given; give one that create_hdf5_dataset wrote")
        if cache_blocks < 1 or open_files < 1:
            raise ValueError(f"cache_blocks is {cache_blocks} and open_files {open_files}, expected at least 1")
        self.data_dirs: tuple[DataDir, ...] = tuple(read_data_dir(folder) for folder in folders)
        require_compatible(self.data_dirs)
        image_dirs = _image_dirs(img_data_dir, self.data_dirs)
        for dir_ in self.data_dirs:
            if dir_.image_aspect_ratio not in (None, image_aspect_ratio):
                raise DataDirError(
                    f"{dir_.root}: stores pixels with image_aspect_ratio {dir_.image_aspect_ratio}, but "
                    f"image_aspect_ratio is {image_aspect_ratio}; give the same, or write the dataset again"
                )
        first = self.data_dirs[0]
        self.are_free = first.image_start_idx is None
        self._transform = ImageTransform(first.image_size, image_aspect_ratio, image_dtype)
        self._blank_failures = on_image_error == "blank"
        shards = [shard for data_dir in self.data_dirs for shard in data_dir.shards]
        self._dir_of_shard = [number for number, dir_ in enumerate(self.data_dirs) for _ in dir_.shards]
        self._shard_rows = [shard.rows for shard in shards]
        self._starts = np.concatenate(([0], np.cumsum(self._shard_rows, dtype=np.int64)))
        self._reader = ShardReader(
            shards, cache_blocks=cache_blocks, open_files=open_files, threads=threads, verify=verify
        )
        # One for each shard; empty if no images are read.
        self._image_sources: list[ImageSource] = []
        if img_data_dir is not None or all(map(_stored_form, self.data_dirs)):
            of_shards = {number: image_dirs[dir_] for number, dir_ in enumerate(self._dir_of_shard)}
            in_files = ImageFiles({number: path for number, path in of_shards.items() if path}, self._transform)
            in_shards = ShardImages(self._reader, shards, self._transform, verify=verify)
            self._image_sources = [in_files if path else in_shards for path in of_shards.values()]
        self._pin_memory = pin_memory
        self._modality_lengths: npt.NDArray[np.int32] | None = None
        self._failures = 0

    def __len__(self) -> int:
        """Return the number of rows in all folders."""
        return int(self._starts[-1])

    def __getitem__(self, row: int) -> Sample:
        """Return one sample; see `__getitems__`."""
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> Samples:
        """Return several samples, reading each block of the shards once.

        Args:
            rows: row numbers, negative ones from the end; a `loaders.samples.WithoutLoss` number returns the row with
                `loss_mask` 0.

        Raises:
            IndexError: a row does not exist.
            ImageError: an image cannot be read, with the row's source file and line.
            loaders.shard_reader.ShardError: a shard is damaged.
        """
        shards, numbers = self._locate(rows)
        blocks, places = np.divmod(numbers, BLOCK_ROWS)
        keys = list(zip(shards.tolist(), blocks.tolist(), strict=True))
        found = self._reader.blocks(sorted(set(keys)))
        read = gather([found[key] for key in keys], places.tolist())
        loss_off = np.fromiter((isinstance(row, WithoutLoss) for row in rows), dtype=bool, count=len(rows))
        read.loss_mask[loss_off] = 0
        failed: list[bool] = []
        pixels = None
        if self._image_sources:
            pixels = self._empty_images(sum(map(len, read.images)) if self.are_free else len(rows))
            parts = iter(pixels)
            for i, (shard, number) in enumerate(zip(shards.tolist(), numbers.tolist(), strict=True)):
                for image in read.images[i]:
                    part = next(parts)
                    failed.append(not self._read_image(shard, number, image, read.lengths[i], part))
                    if failed[-1]:
                        part.zero_()
                        _blank_out(read, i, image)
                if not self.are_free and not read.images[i]:
                    next(parts).zero_()
        else:
            failed = [False] * sum(map(len, read.images))
        return Samples(read, self.are_free, np.array(failed, dtype=bool), pixels)

    @property
    def modality_lengths(self) -> npt.NDArray[np.int32]:
        """Return the attended positions of every row, (rows,) int32: positive with an image, negative for text only."""
        if self._modality_lengths is None:
            columns = [self._modality_lengths_of(shard) for shard in range(len(self._shard_rows))]
            self._modality_lengths = np.concatenate(columns).astype(np.int32, copy=False)
        return self._modality_lengths

    def _modality_lengths_of(self, shard: int) -> Array:
        bounds = self._reader.column(shard, "samples/offsets", 0, self._shard_rows[shard] + 1)
        ends = np.concatenate(([0], np.cumsum(self._reader.column(shard, "samples/length", 0, int(bounds[-1])))))
        lengths: Array = ends[bounds[1:]] - ends[bounds[:-1]]
        images = np.diff(self._reader.column(shard, "images/offsets", 0, self._shard_rows[shard] + 1))
        dummy_slots = 0 if self.are_free else self.data_dirs[0].num_patches
        return np.where(images > 0, lengths, dummy_slots - lengths)

    def collator(
        self, *, trim_to: int | None = None, ignore_index: int | None = None, with_cu_seqlens: bool = False
    ) -> Collator:
        """Return the collator for samples of this dataset; see `loaders.collate.Collator`.

        Raises:
            ValueError: `with_cu_seqlens`, but rows are fixed.
        """
        first = self.data_dirs[0]
        if with_cu_seqlens and not self.are_free:
            raise ValueError(
                f"with_cu_seqlens is given, but the rows of {first.root} are fixed (one sample and one image position "
                "each); write the dataset with processor.packing best_fit, or leave it out"
            )
        return Collator(
            max_sequence_length=first.max_sequence_length,
            image_end=0 if first.image_start_idx is None else first.image_start_idx + first.num_patches,
            trim_to=trim_to,
            ignore_index=ignore_index,
            with_cu_seqlens=with_cu_seqlens,
        )

    def blocks(self, data_dir: int) -> tuple[list[int], list[int]]:
        """Return the first row and the size of each block of one of `data_dirs`; a block does not cross shards."""
        starts: list[int] = []
        sizes: list[int] = []
        for shard, rows in enumerate(self._shard_rows):
            if self._dir_of_shard[shard] == data_dir:
                first = int(self._starts[shard])
                starts += range(first, first + rows, BLOCK_ROWS)
                sizes += [min(BLOCK_ROWS, rows - start) for start in range(0, rows, BLOCK_ROWS)]
        return starts, sizes

    def source(self, row: int, sample: int = 0) -> tuple[str, int]:
        """Return the input file and line (from 1) of a sample.

        Args:
            row: row number, negative from the end.
            sample: number of the sample in the row.

        Raises:
            IndexError: the row or the sample does not exist.
        """
        shards, numbers = self._locate([row])
        return self._source(int(shards[0]), int(numbers[0]), sample)

    def _locate(self, rows: Sequence[int]) -> tuple[Array, Array]:
        """Return the shard of each row, and the row number in that shard."""
        numbers = np.asarray(rows, dtype=np.int64)
        numbers = np.where(numbers < 0, numbers + len(self), numbers)
        wrong = (numbers < 0) | (numbers >= len(self))
        if wrong.any():
            raise IndexError(f"row {rows[int(wrong.argmax())]} does not exist; there are {len(self)} rows")
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        return shards, numbers - self._starts[shards]

    def _source(self, shard: int, row: int, sample: int) -> tuple[str, int]:
        first, end = self._reader.column(shard, "samples/offsets", row, row + 2).tolist()
        if not 0 <= sample < end - first:
            raise IndexError(f"sample {sample} does not exist; the row has {end - first} samples")
        at = first + sample
        file = int(self._reader.column(shard, "samples/source_file", at, at + 1)[0])
        line = int(self._reader.column(shard, "samples/source_line", at, at + 1)[0])
        return self.data_dirs[self._dir_of_shard[shard]].inputs[file], line

    def _empty_images(self, count: int) -> torch.Tensor:
        """Return memory for images: shared in a worker process, pinned if required, so that it is not copied later."""
        size, dtype = self._transform.image_size, self._transform.dtype
        shape = (count, 3, size, size)
        if get_worker_info() is not None:
            shared: Any = torch.UntypedStorage
            images = torch.empty(0, dtype=dtype)
            images.set_(shared._new_shared(count * 3 * size * size * dtype.itemsize))  # as torch's default_collate
            return images.view(shape)
        return torch.empty(shape, dtype=dtype, pin_memory=self._pin_memory and torch.cuda.is_available())

    def _read_image(self, shard: int, row: int, image: StoredImage, lengths: list[int], out: torch.Tensor) -> bool:
        """Write an image to `out`; return False if it cannot be read and is left blank.

        `lengths`: the lengths of the samples of its row, in positions.
        """
        source = self._image_sources[shard]
        try:
            source.read(shard, image, out)
            return True
        except ImageError as error:
            file, line = self._source(shard, row, _sample_at(lengths, image.start))
            message = f"{file}, line {line}: {source.describe(shard, image)} cannot be read ({error})"
            if self._blank_failures:
                self._failures += 1
                if self._failures <= _MAX_LOGGED:
                    _log.warning("%s; it is left blank, without loss for its sample", message)
                return False
            raise ImageError(
                f'{message}; restore the file, or give on_image_error="blank" to train without it'
            ) from None


def _sample_at(lengths: list[int], position: int) -> int:
    """Return which sample of a row contains a position."""
    return bisect_right(list(accumulate(lengths)), position)


def _blank_out(rows: Block, row: int, image: StoredImage) -> None:
    """Mask the slots of an image, and switch off the loss of its sample only."""
    sample = _sample_at(rows.lengths[row], image.start)
    start = sum(rows.lengths[row][:sample])
    rows.key_padding_mask[row, image.start : image.start + image.slots] = 1
    rows.loss_mask[row, start : start + rows.lengths[row][sample]] = 0


def _as_list(folders: Folders) -> list[str | Path]:
    return [folders] if isinstance(folders, (str, Path)) else list(folders)


def _stored_form(data_dir: DataDir) -> str | None:
    """Return the form of the images in the shards of a dataset; None if it does not store them."""
    return None if data_dir.store_images == "path" else data_dir.store_images


def _image_dirs(img_data_dir: Folders | None, data_dirs: Sequence[DataDir]) -> list[Path | None]:
    """Return the image folder of each dataset; None if images are stored in its shards or not read."""
    elsewhere = [dir_ for dir_ in data_dirs if _stored_form(dir_) is None]
    if img_data_dir is None:
        if 0 < len(elsewhere) < len(data_dirs):
            raise DataDirError(
                f"{elsewhere[0].root}: does not store its images as the others do; give their folder as img_data_dir"
            )
        return [None] * len(data_dirs)
    folders = [Path(folder).expanduser() for folder in _as_list(img_data_dir)]
    if not elsewhere:
        raise DataDirError(f"img_data_dir {folders[0]} is given, but images are read from the shards; leave it out")
    for folder in folders:
        if not folder.is_dir():
            raise DataDirError(f"img_data_dir {folder}: no such folder; give the one that image paths are relative to")
    if len(folders) not in (1, len(elsewhere)):
        raise DataDirError(
            f"img_data_dir has {len(folders)} folders for {len(elsewhere)} data dirs; give one for all, or one for each"
        )
    of_each = iter(folders * len(elsewhere) if len(folders) == 1 else folders)
    return [next(of_each) if _stored_form(dir_) is None else None for dir_ in data_dirs]
