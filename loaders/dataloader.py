"""`create_dataloader`: load batches in an order that does not depend on ranks, workers or restarts."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import orjson
import torch
from torch.utils.data import DataLoader

from loaders.batch_sampler import RankBatchSampler
from loaders.collate import Batch
from loaders.data_dir import DataDirError
from loaders.dataset import Folders, LlavaH5Dataset, OnImageError
from loaders.global_batches import ConsecutiveBatches, GlobalBatches
from loaders.grouping import ModalityBatches
from loaders.image_transform import ImageError
from loaders.mixture import MixtureOrder, folders_and_weights
from loaders.row_order import BlockShuffle, RowOrder, SequentialOrder
from loaders.samples import Sample
from loaders.shard_reader import BLOCK_ROWS, ShardError
from preprocess.square_images import AspectRatio

_log = logging.getLogger(__name__)


class OtherOrderError(ValueError):
    """A state belongs to a loader with other data or settings.

    Attributes:
        key: the first key of the state that differs, such as "global_batch_size".
        saved: its value in the state.
        ours: its value in this loader.
    """

    def __init__(self, key: str, saved: object, ours: object) -> None:
        super().__init__(
            f"the state has {key} {saved!r}, but this loader has {ours!r}; recreate the loader with the same "
            "settings, or start without the state"
        )
        self.key, self.saved, self.ours = key, saved, ours


class LlavaDataLoader(DataLoader[Sample]):
    """A torch `DataLoader` whose position can be saved and restored; created by `create_dataloader`.

    Each iteration covers one epoch; the next iteration covers the next epoch. An iteration that is not finished
    restarts its epoch, unless `load_state_dict` sets the position.

    Attributes:
        failed_images: number of images in the batches returned so far on this rank that could not be read.
    """

    # Attributes that accelerate checks: `prepare` does not wrap this loader, so the ranks' shares are unchanged, and
    # `save_state` and `load_state` save and restore its position.
    _is_accelerate_prepared = True
    use_stateful_dataloader = True

    batch_sampler: RankBatchSampler
    dataset: LlavaH5Dataset

    def __init__(self, dataset: LlavaH5Dataset, batch_sampler: RankBatchSampler, order: dict[str, Any], **options: Any):
        """`order`: plain JSON of all settings that determine the order; a state must have the same settings."""
        super().__init__(dataset, batch_sampler=batch_sampler, **options)
        self.failed_images = 0
        self._order = order
        self._batches_returned = 0
        self._is_restored = False
        self._iterations = 0

    @property
    def epoch(self) -> int:
        """The current epoch, or that of the next iteration."""
        return self.batch_sampler.epoch

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Iterate over the batches of the epoch, from the position of `load_state_dict` or from the first batch."""
        sampler = self.batch_sampler
        if not self._is_restored:
            self._batches_returned = 0
        self._is_restored = False
        sampler.start = self._batches_returned
        batches = super().__iter__()
        sampler.start = 0  # for callers that iterate over the sampler itself, as accelerate does to skip batches
        self._iterations += 1
        return self._return_batches(batches, self._iterations)

    def _return_batches(self, batches: Iterator[Any], iteration: int) -> Iterator[Batch]:
        failed_before = self.failed_images
        for batch in _without_worker_traceback(batches):
            # An old iterator that is used after a new iteration has started must not change the position.
            if iteration == self._iterations:
                self._batches_returned += 1
                self.failed_images += batch.failed_images
            yield batch
        if iteration == self._iterations:
            if failed := self.failed_images - failed_before:
                _log.warning(
                    "epoch %d: %d images could not be read and were left blank, %d since the start",
                    self.epoch,
                    failed,
                    self.failed_images,
                )
            self.batch_sampler.set_epoch(self.epoch + 1)
            self._batches_returned = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration; setting the current epoch keeps the position of a resumed run."""
        if epoch != self.epoch:
            self.batch_sampler.set_epoch(epoch)
            self._batches_returned, self._is_restored = 0, False

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the consumer as plain JSON of less than 1 KB; prefetched batches do not count.

        It counts global batches, so it is the same on every rank and for any number of ranks.
        """
        epoch, batch = self.epoch, self._batches_returned
        if batch and batch >= len(self):
            epoch, batch = epoch + 1, 0
        return {"version": 1, "epoch": epoch, "batch": batch, **self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the last batch that was returned before the state was saved; the number of ranks may differ.

        Raises:
            ValueError: it is not a state of a loader; `OtherOrderError` if it is one of a loader with other data,
                seed, global batch size, …
        """
        if not isinstance(state, dict):
            raise ValueError(f"the state is {state!r}, expected what state_dict() returned; start without the state")
        for key, ours in {"version": 1, **self._order}.items():
            if state.get(key) != ours:
                raise OtherOrderError(key, state.get(key), ours)
        for key in ("epoch", "batch"):
            number = state.get(key)
            if not isinstance(number, int) or number < 0:
                raise ValueError(
                    f"the state has {key} {number!r}, expected an integer of at least 0; start without the state"
                )
        self.batch_sampler.set_epoch(state["epoch"])
        self._batches_returned, self._is_restored = state["batch"], True


def create_dataloader(
    data_dir: Folders | None = None,
    img_data_dir: Folders | None = None,
    batch_size: int = 16,
    *,
    mixture: Sequence[tuple[str | Path, float]] | None = None,
    image_aspect_ratio: AspectRatio = "square",
    image_dtype: torch.dtype = torch.float16,
    on_image_error: OnImageError = "raise",
    shuffle: bool = True,
    shuffle_seed: int = 0,
    shuffle_window: int = 32,
    drop_last: bool = True,
    group_by_modality: bool = False,
    trim_to: int | None = None,
    ignore_index: int | None = None,
    with_cu_seqlens: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    num_workers: int = 0,
    prefetch_factor: int | None = None,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    multiprocessing_context: Any = None,
    open_files: int = 16,
    verify: bool = False,
) -> LlavaDataLoader:
    """Create a loader over one or several datasets.

    Args:
        data_dir: one or several folders written by `create_hdf5_dataset`.
        img_data_dir: the folder that image paths are relative to, or one for each dataset that does not store its
            images. None reads only stored images.
        batch_size: rows per rank; the global batch has batch_size * world_size rows.
        mixture: [(folder, weight), …] instead of `data_dir`, see `loaders.mixture.MixtureOrder`. Weights refer to rows,
            also for packed data.
        image_aspect_ratio: "square" or "pad", see `loaders.image_transform.ImageTransform`.
        image_dtype: dtype of `image_data`: float16, bfloat16 or float32.
        on_image_error: "raise"; or "blank": the image becomes zeros, its slots are masked, the loss of its sample is
            switched off, and it is counted in `failed_images`.
        shuffle: shuffle the rows in every epoch; otherwise they are in stored order.
        shuffle_seed: seed of the shuffle.
        shuffle_window: number of blocks of 64 rows that are shuffled together; each process keeps them decoded
            (384 bytes per row and 64 positions).
        drop_last: drop the rows at the end of an epoch that do not fill a global batch. False fills the last batch with
            rows of the same batch whose `loss_mask` is 0, so that every row counts once.
        group_by_modality: make global batches with only image or only text rows of similar lengths; not for packed
            rows.
        trim_to: trim a batch to its longest row, rounded up to a multiple of this; None keeps the fixed length.
        ignore_index: value for labels without loss, such as -100 for a cross-entropy; None leaves them as stored.
        with_cu_seqlens: add `cu_seqlens` and `max_seqlen` to batches of packed rows, for variable-length attention, see
            `loaders.collate.Collator`.
        rank, world_size: default to those of `torch.distributed`, or to 0 and 1.
        num_workers, prefetch_factor, persistent_workers, pin_memory, multiprocessing_context: as in `DataLoader`.
        open_files: number of shard files kept open in each process.
        verify: compare the sha256 of each shard before a process first reads it, and check stored pixels.

    Raises:
        DataDirError: a folder is not a finished dataset, or the datasets are incompatible.
        ValueError: an argument is invalid, or there are fewer rows than one global batch.
    """
    rank, world_size = _rank_and_world_size(rank, world_size)
    if (data_dir is None) == (mixture is None):
        raise ValueError("give either data_dir or mixture=[(folder, weight), …]")
    given: list[tuple[str, Any, int]] = [
        ("batch_size", batch_size, 1),
        ("shuffle_window", shuffle_window, 1),
        ("num_workers", num_workers, 0),
    ]
    for name, value, least in given:
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f"{name} is {value!r}, expected a whole number of at least {least}")
    folders: Folders = data_dir or []
    weights = None
    if mixture is not None:
        folders, weights = folders_and_weights(mixture)
    dataset = LlavaH5Dataset(
        folders,
        img_data_dir,
        image_aspect_ratio=image_aspect_ratio,
        image_dtype=image_dtype,
        on_image_error=on_image_error,
        # Grouped rows are drawn from a window of each modality.
        cache_blocks=shuffle_window * (len(mixture) if mixture is not None else 1) * (2 if group_by_modality else 1),
        threads=1 if num_workers else min(4, len(os.sched_getaffinity(0))),
        open_files=open_files,
        pin_memory=pin_memory,
        verify=verify,
    )
    window = shuffle_window if shuffle else None
    order = _row_order(dataset, weights, window, shuffle_seed)
    size = batch_size * world_size
    batches: GlobalBatches
    if group_by_modality:
        for read in dataset.data_dirs:
            if read.packing != "none":
                raise ValueError(
                    f"group_by_modality is given, but rows of {read.root} are packed: each holds samples with and "
                    "without images and is about full, so there is nothing to group; leave it out"
                )
        lengths = dataset.modality_lengths
        batches = ModalityBatches(
            order,
            lengths,
            size,
            window_rows=shuffle_window * BLOCK_ROWS,
            drop_last=drop_last,
            shuffle=shuffle,
            seed=shuffle_seed,
        )
    else:
        batches = ConsecutiveBatches(order, size, drop_last=drop_last)
    if not batches.count(0):
        raise ValueError(
            f"{dataset.data_dirs[0].root}: {order.rows} rows do not fill one global batch of {size} "
            f"(batch_size {batch_size} x world_size {world_size}); give a smaller batch_size or drop_last=False"
        )
    described = {
        "data": _digest([d.plan_digest, [[s.rows, s.sha256] for s in d.shards]] for d in dataset.data_dirs),
        "weights": None if weights is None else _digest(weights),
        "global_batch_size": size,
        "shuffle_seed": shuffle_seed if shuffle else None,
        "shuffle_window": window,
        "drop_last": drop_last,
        "group_by_modality": group_by_modality,
    }
    return LlavaDataLoader(
        dataset,
        RankBatchSampler(batches, rank=rank, world_size=world_size),
        described,
        collate_fn=dataset.collator(trim_to=trim_to, ignore_index=ignore_index, with_cu_seqlens=with_cu_seqlens),
        num_workers=num_workers,
        prefetch_factor=prefetch_factor,
        persistent_workers=persistent_workers,
        pin_memory=pin_memory,
        multiprocessing_context=multiprocessing_context,
    )


def _without_worker_traceback(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches; raise errors of worker processes without the traceback that torch puts before the message."""
    try:
        yield from batches
    except (ImageError, ShardError) as error:
        if not str(error).startswith("Caught "):
            raise
        kind = type(error)
        message = str(error).strip().splitlines()[-1].removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")
        raise kind(message) from None


def _row_order(dataset: LlavaH5Dataset, weights: Sequence[float] | None, window: int | None, seed: int) -> RowOrder:
    """Return one order over all rows; for a mixture, the orders of the datasets interleaved by weight."""
    blocks = [dataset.blocks(number) for number in range(len(dataset.data_dirs))]
    if weights is None:
        joined = ([start for starts, _ in blocks for start in starts], [size for _, sizes in blocks for size in sizes])
        if window is None:
            return SequentialOrder(0, len(dataset))
        return BlockShuffle(*joined, window=window, seed=seed)
    orders: list[RowOrder] = []
    first = 0
    for number, (data_dir, (starts, sizes)) in enumerate(zip(dataset.data_dirs, blocks, strict=True)):
        if not data_dir.rows:
            raise DataDirError(f"{data_dir.root}: has no rows, so it cannot be part of a mixture; leave it out")
        if window is None:
            orders.append(SequentialOrder(first, data_dir.rows))
        else:
            # The seed depends on the number of the dataset, so that a folder given twice gets two different orders.
            orders.append(BlockShuffle(starts, sizes, window=window, seed=seed * len(blocks) + number))
        first += data_dir.rows
    return MixtureOrder(orders, weights)


def _rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return the given rank and world size, or those of torch.distributed."""
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank is {rank} and world_size {world_size}; give both or neither")
    if rank is None or world_size is None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            raise ValueError(
                f"the environment has WORLD_SIZE {os.environ['WORLD_SIZE']}, but torch.distributed is not initialised, "
                "so every rank would read the same rows; initialise it first, or give rank and world_size"
            )
        return 0, 1
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank} of world_size {world_size}, expected 0 <= rank < world_size")
    return rank, world_size


def _digest(document: Any) -> str:
    """Return the first 16 digits of a sha256: enough to distinguish datasets, and short enough for a state."""
    return hashlib.sha256(orjson.dumps(list(document))).hexdigest()[:16]
