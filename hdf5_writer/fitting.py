"""Fit samples into rows: long samples are truncated or rejected, and images are never split."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hdf5_writer.rows import RowLayout
from preprocess.rejects import Reason, Rejected
from preprocess.samples import SampleBatch

_Ints = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]


class SampleMeasures(NamedTuple):
    """Measures of n samples; each array has the shape (n,).

    Attributes:
        length: positions, including the dummy slots of a fixed text-only row.
        text_tokens: text tokens among these positions.
        images: images that are kept.
        images_cut: images that were cut off.
        supervised: supervised labels.
        rounds: answers with at least one supervised label.
        truncated: whether the record is longer than a row.
    """

    length: _Ints
    text_tokens: _Ints
    images: _Ints
    images_cut: _Ints
    supervised: _Ints
    rounds: _Ints
    truncated: _Flags

    def part(self, start: int, stop: int) -> SampleMeasures:
        """Return the measures of samples `start` to `stop` - 1."""
        return SampleMeasures._make(array[start:stop] for array in self)

    def take(self, which: _Ints | _Flags) -> SampleMeasures:
        """Return the measures of the samples selected by numbers or by a boolean mask."""
        return SampleMeasures._make(array[which] for array in self)


def fit_samples(batch: SampleBatch, layout: RowLayout) -> tuple[SampleBatch, SampleMeasures, dict[int, Rejected]]:
    """Truncate the samples of a batch to the length of a row.

    A sequence of n tokens and image slots takes n - 1 positions. If the slots of an image do not fit completely, the
    sample ends before that image. If no supervised token follows an image, the sample ends at its last supervised
    label.

    Returns:
        the samples that fit, their measures, and the rejects by sample number in `batch`. The reasons are TOO_LONG,
        NOTHING_SUPERVISED and, in fixed rows only, IMAGE_NOT_AT_START_IDX (impossible with templates that move the
        image to the front) or SUPERVISED_AT_DUMMY_IMAGE (the first answer token of a text-only sample would have to be
        predicted from a dummy slot).
    """
    batch = _without_first_labels(batch, layout)
    slots, length = layout.num_patches, layout.max_sequence_length
    starts, ends = batch.offsets[:-1], batch.offsets[1:]
    run_at, run_offsets = layout.slot_runs(batch)
    runs = np.diff(run_offsets)
    of_run = np.repeat(np.arange(batch.records), runs)  # sample number of each run of slots
    positions = ends - starts + runs * slots - 1
    truncated = positions > length

    # `kept` counts tokens and slots until the end of this block, then text tokens only.
    kept_runs, kept = runs.copy(), np.minimum(positions, length) + 1
    if layout.image_start_idx is None and truncated.any():
        run_starts = run_at + (np.arange(len(run_at)) - run_offsets[of_run]) * slots
        unfit = truncated[of_run] & (run_starts + slots > length)
        kept_runs -= np.bincount(of_run[unfit], minlength=batch.records)
        np.minimum.at(kept, of_run[unfit], run_starts[unfit])
    kept -= kept_runs * slots

    labels = np.flatnonzero(batch.supervised)
    first = np.searchsorted(labels, starts)
    until = np.searchsorted(labels, starts + kept)
    count = until - first
    if layout.image_start_idx is None and len(run_at):
        last_label = np.where(count > 0, np.append(labels, 0)[until - 1] - starts, -1)
        unused = run_at > last_label[of_run]
        dropped = np.bincount(of_run[unused], minlength=batch.records)
        shortened = runs - dropped < kept_runs
        kept = np.where(shortened, last_label + 1, kept)
        kept_runs = np.minimum(kept_runs, runs - dropped)

    # A supervised span starts after an unsupervised token or at the start of a sample.
    starts_here = np.zeros(len(batch.ids) + 1, dtype=np.bool_)
    starts_here[starts] = True
    spans = labels[starts_here[labels] | ~batch.supervised[labels - 1]]
    text_only = np.diff(batch.image_offsets) == 0
    measures = SampleMeasures(
        length=kept + kept_runs * slots - 1,
        text_tokens=kept - 1,
        images=np.where(text_only, 0, kept_runs),
        images_cut=runs - kept_runs,
        supervised=count,
        rounds=np.searchsorted(spans, starts + kept) - np.searchsorted(spans, starts),
        truncated=truncated,
    )
    rejects = _find_rejects(batch, layout, measures, labels, positions)
    if not rejects and not truncated.any() and not measures.images_cut.any():
        return batch, measures, rejects
    fits = np.ones(batch.records, dtype=np.bool_)
    fits[list(rejects)] = False
    fitting = measures.take(fits)
    fitted = _cut(batch, np.where(fits, kept, 0), np.where(fits, measures.images, 0))
    fitted = fitted._replace(
        offsets=np.append(0, np.cumsum(fitting.text_tokens + 1)), image_offsets=np.append(0, np.cumsum(fitting.images))
    )
    return fitted, fitting, rejects


def _without_first_labels(batch: SampleBatch, layout: RowLayout) -> SampleBatch:
    """Clear the supervised flag of the first token of each sequence, unless an image precedes it.

    No position predicts the first token of a sequence.
    """
    first = batch.offsets[:-1][np.diff(batch.offsets) > 0]
    if layout.image_start_idx is not None or not batch.supervised[first].any():
        return batch
    supervised = batch.supervised.copy()
    supervised[first] = False
    after_image = np.repeat(batch.offsets[:-1], np.diff(batch.image_offsets))[batch.image_at == 0]
    supervised[after_image] = batch.supervised[after_image]
    return batch._replace(supervised=supervised)


def _cut(batch: SampleBatch, ids: _Ints, images: _Ints) -> SampleBatch:
    """Keep the first `ids[i]` ids and `images[i]` images of sample i."""
    kept = _prefix_mask(batch.offsets, ids)
    images_kept = _prefix_mask(batch.image_offsets, images)
    return batch._replace(ids=batch.ids[kept], supervised=batch.supervised[kept], image_at=batch.image_at[images_kept])


def _prefix_mask(offsets: _Ints, counts: _Ints) -> _Flags:
    """Return a mask of the first `counts[i]` elements of each sample i."""
    kept: _Flags = np.arange(offsets[-1]) < np.repeat(offsets[:-1] + counts, np.diff(offsets))
    return kept


def _find_rejects(
    batch: SampleBatch, layout: RowLayout, measures: SampleMeasures, labels: _Ints, positions: _Ints
) -> dict[int, Rejected]:
    """Return the rejects by sample number."""
    start, length = layout.image_start_idx, layout.max_sequence_length
    starts = batch.offsets[:-1]
    first = np.searchsorted(labels, starts)
    any_label = np.searchsorted(labels, batch.offsets[1:]) > first
    answer_at = np.append(labels, len(batch.ids))[first] - starts
    images = np.diff(batch.image_offsets)
    first_image = np.append(batch.image_at, 0)[batch.image_offsets[:-1]]
    nothing = np.zeros(batch.records, dtype=np.bool_)
    misplaced = nothing if start is None else (images > 0) & (first_image != start)
    too_early = nothing if start is None else any_label & (answer_at < start + (images == 0))
    too_long = measures.truncated & (not layout.truncate)

    def explain(sample: int) -> Rejected:
        if misplaced[sample]:
            return Rejected(
                Reason.IMAGE_NOT_AT_START_IDX,
                f"the image comes after {first_image[sample]} tokens, but fixed rows have it after {start} "
                "(image_start_idx); set processor.packing: best_fit or dataset.max_images above 1 to allow it anywhere",
            )
        if too_early[sample]:
            return Rejected(
                Reason.SUPERVISED_AT_DUMMY_IMAGE,
                f"the answer begins at token {answer_at[sample] + 1} of a text-only record, but in fixed "
                f"rows the dummy image comes after {start} tokens, and an answer must begin at least one token later; "
                "set processor.packing: best_fit or dataset.max_images above 1 for rows without dummy images",
            )
        if too_long[sample]:
            included = "" if start is None and not images[sample] else ", images included"
            found = f"{positions[sample]} positions{included}, expected at most max_sequence_length {length}"
            return Rejected(Reason.TOO_LONG, found)
        if not measures.truncated[sample]:
            return Rejected(Reason.NOTHING_SUPERVISED, "no answer token")
        if start is None and measures.images_cut[sample]:
            cut = f"nothing is supervised before image {measures.images[sample] + 1}"
            return Rejected(Reason.NOTHING_SUPERVISED, f"{cut}, which does not fit into {length} positions")
        return Rejected(
            Reason.NOTHING_SUPERVISED, f"the answer begins after the first {length} positions, where the sample is cut"
        )

    rejects = np.flatnonzero(misplaced | too_early | too_long | (measures.supervised == 0)).tolist()
    return {sample: explain(sample) for sample in rejects}
