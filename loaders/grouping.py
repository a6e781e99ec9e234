"""Global batches of one modality and of similar lengths, after LLaVA's length-grouped sampler."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from loaders.global_batches import GlobalBatch, fill_up
from loaders.row_order import RowOrder, Rows, keyed_hashes

# Number of global batches whose rows are sorted by length together: the minimum makes lengths similar, the maximum is
# that of Hugging Face's LengthGroupedSampler.
_MIN_SEGMENT_BATCHES, _MAX_SEGMENT_BATCHES = 4, 50


class ModalityBatches:
    """Global batches with only image or only text rows, of similar lengths.

    Based on `get_modality_length_grouped_indices` of haotian-liu/LLaVA, llava/train/llava_trainer.py: rows with and
    without an image are taken separately in the order of the epoch; segments of them are sorted by length and split
    into batches; the batches are then shuffled. In contrast to the original, no batch mixes modalities at the end of
    the epoch, and batches stay close to the place of their rows in the order, so that decoded blocks are reused.
    """

    def __init__(
        self,
        order: RowOrder,
        modality_lengths: npt.NDArray[np.int32],
        size: int,
        *,
        window_rows: int,
        drop_last: bool,
        shuffle: bool,
        seed: int,
    ) -> None:
        """Group the rows of an order.

        Args:
            order: yields row numbers, indices into `modality_lengths`.
            modality_lengths: (rows,) int32, positive with an image, negative for text only.
            size: global batch size in rows.
            window_rows: rows of the order that a segment spans, so that it needs no more blocks than a window.
            drop_last: drop incomplete batches, at most one per modality; otherwise fill them up.
            shuffle: shuffle the batches; otherwise they are in the order of their segments.
            seed: any integer.

        Raises:
            ValueError: all rows of one modality would be dropped in every epoch.
        """
        for name, count in (("image", int((modality_lengths > 0).sum())), ("text", int((modality_lengths < 0).sum()))):
            if drop_last and 0 < count < size:
                raise ValueError(
                    f"group_by_modality with drop_last would leave out all {name} rows: there are {count}, which do "
                    f"not fill one global batch of {size}; give a smaller batch_size or drop_last=False"
                )
        self.size = size
        self._order = order
        self._lengths = modality_lengths
        self._window_rows = window_rows
        self._drop_last = drop_last
        self._shuffle = shuffle
        self._seed = seed
        self._plan = lru_cache(maxsize=2)(self._plan_epoch)

    def count(self, epoch: int) -> int:
        """See `GlobalBatches.count`; with a mixture it can differ from epoch to epoch."""
        return len(self._plan(epoch))

    def batch(self, epoch: int, number: int) -> GlobalBatch:
        """See `GlobalBatches.batch`."""
        return fill_up(self._plan(epoch)[number], self.size)

    def _plan_epoch(self, epoch: int) -> list[Rows]:
        rows = self._order.take(epoch, 0, self._order.rows)
        lengths = self._lengths[rows]
        batches: list[Rows] = []
        spans: list[tuple[int, int]] = []
        for with_image in (True, False):
            places = np.flatnonzero((lengths > 0) == with_image)
            if self._drop_last:
                places = places[: len(places) // self.size * self.size]
            fitting = self._window_rows * len(places) // (len(rows) * self.size)
            step = self.size * min(max(fitting, _MIN_SEGMENT_BATCHES), _MAX_SEGMENT_BATCHES)
            for start in range(0, len(places), step):
                segment = places[start : start + step]
                # Longest first, as in the authors' code, so that a batch that does not fit into memory fails at once.
                by_length = segment[np.argsort(-np.abs(lengths[segment]), kind="stable")]
                cuts = range(0, len(segment), self.size)
                batches += [rows[by_length[cut : cut + self.size]] for cut in cuts]
                spans += [(int(segment[0]), int(segment[-1]))] * len(cuts)
        if not batches:
            return []
        first, last = np.array(spans, dtype=np.float64).T
        sort_keys = first
        if self._shuffle:
            fractions = keyed_hashes(len(batches), "modality batches", self._seed, epoch) / 2.0**64
            sort_keys = first + fractions * (last - first)
        return [batches[number] for number in np.argsort(sort_keys, kind="stable")]
