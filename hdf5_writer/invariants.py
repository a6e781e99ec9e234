"""The invariants of shards and rows, which `verify_hdf5_dataset`, the viewer and the loaders check."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from hdf5_writer.data_params import DataParams
from hdf5_writer.schema import ShardSize
from hdf5_writer.tables import TABLES, rows_of_entries, sample_of_image
from preprocess.templates import begins_with_bos

_Array = npt.NDArray[Any]


def table_problems(tables: Mapping[str, _Array], size: ShardSize) -> Iterator[str]:
    """Check the offsets of the tables of a shard, on which all other checks rely.

    Args:
        tables: columns of the shard, including the offsets of both tables.
        size: expected numbers of rows, samples and images.

    Yields:
        one sentence per problem.
    """
    for table in TABLES:
        offsets, entries = tables[f"{table}/offsets"], getattr(size, table)
        if offsets[0] != 0 or offsets[-1] != entries or (np.diff(offsets) < 0).any():
            yield f"{table}/offsets does not increase from 0 to {entries}, the number of {table}"
    if (np.diff(tables["samples/offsets"]) == 0).any():
        yield "samples/offsets has a row without a sample"


def content_problems(tables: Mapping[str, _Array], data: h5py.Dataset, params: DataParams) -> Iterator[str]:
    """Check the images that are stored in a shard, reading one at a time.

    Args:
        tables: all columns of the shard.
        data: the dataset `contents/data`.
        params: content of `data_params.json`.

    Yields:
        one sentence per problem.
    """
    begin, crc32, of_image = (tables[name] for name in ("contents/begin", "contents/crc32", "images/content"))
    if begin[0] != 0 or begin[-1] != len(data) or (np.diff(begin) < 0).any():
        yield f"contents/begin does not increase from 0 to {len(data)}, the size of contents/data"
        return
    read = params.store_images != "path"
    outside = (of_image < (0 if read else -1)) | (of_image >= len(crc32))
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        yield f"image {first}: images/content is out of range, the shard has {len(crc32)} contents"
    if params.store_images == "pixels" and (np.diff(begin) != 3 * params.image_size**2).any():
        yield f"contents/begin has pixels of another size than 3 x {params.image_size} x {params.image_size}"
    for number, (start, stop) in enumerate(itertools.pairwise(begin.tolist())):
        if isal_zlib.crc32(data[start:stop].data) != crc32[number]:
            yield f"content {number}: contents/data does not match contents/crc32"


def row_problems(rows: Mapping[str, _Array], params: DataParams) -> Iterator[tuple[str, _Array]]:
    """Check the invariants of n rows.

    Args:
        rows: the datasets of `schema.DATASETS`: n rows of each per-position dataset, and the table columns from
            `tables_of_rows`, whose offsets must be valid.
        params: content of `data_params.json`.

    Yields:
        for every invariant, its violation in words and the rows that violate it, (n,) bool. Rows with invalid tables
        are skipped in the checks that need the tables.
    """
    ids, labels, loss, hidden = (rows[name] for name in ("text_input_ids", "labels", "loss_mask", "key_padding_mask"))
    count, width = ids.shape
    pad, vocab, fixed_at = params.pad_id, params.vocab_size, params.image_start_idx

    yield "text_input_ids has an id outside the vocabulary", _rows_where((ids < 0) | (ids >= vocab))
    yield "labels has an id outside the vocabulary", _rows_where((labels < 0) | (labels >= vocab))
    yield "loss_mask has a value other than 0 and 1", _rows_where(loss > 1)

    # Samples fill their row from position 0 without gaps.
    offsets, of_sample = rows["samples/offsets"], rows_of_entries(rows, "samples")
    starts, lengths = (rows[f"samples/{name}"].astype(np.int64) for name in ("start", "length"))
    before = np.cumsum(lengths) - lengths
    expected = before - before[offsets[:-1]][of_sample]
    off = (starts != expected) | (lengths < 1) | (starts + lengths > width)
    # The slots of each image lie inside one sample and after those of the previous image.
    of_image = rows_of_entries(rows, "images")
    image_starts, slots = (rows[f"images/{name}"].astype(np.int64) for name in ("start", "slots"))
    samples_broken = _in_rows(of_sample, off, count)
    yield "samples overlap, leave a gap or do not fit into the row", samples_broken
    sample = np.clip(sample_of_image(rows), 0, None)
    outside = (image_starts < 0) | (slots != params.num_patches)
    if len(slots):
        outside |= (of_sample[sample] != of_image) | (image_starts < starts[sample])
        outside |= image_starts + slots > starts[sample] + lengths[sample]
        outside[1:] |= (of_image[1:] == of_image[:-1]) & (image_starts[1:] < image_starts[:-1] + slots[:-1])
    images_broken = _in_rows(of_image, outside, count) & ~samples_broken
    yield f"the {params.num_patches} slots of an image do not lie inside one sample", images_broken
    if fixed_at is not None:
        misplaced = (image_starts != fixed_at) | (np.diff(rows["images/offsets"])[of_image] > 1)
        yield f"the image is not at image_start_idx {fixed_at}", _in_rows(of_image, misplaced, count)
        short = starts + lengths < fixed_at + params.num_patches
        yield "the sample is shorter than its image slots", _in_rows(of_sample, short, count)

    sound = ~(samples_broken | images_broken)
    keep, keep_image = sound[of_sample], sound[of_image]
    of_sample, starts, lengths = of_sample[keep], starts[keep], lengths[keep]
    of_image, image_starts, slots, sample = (array[keep_image] for array in (of_image, image_starts, slots, sample))
    used = np.zeros(count, dtype=np.int64)
    np.maximum.at(used, of_sample, starts + lengths)
    at = np.arange(width)
    beyond: _Array = (at >= used[:, None]) & sound[:, None]
    attended_slots = _runs(of_image, image_starts, slots, (count, width))
    dummy = np.zeros((count, width), dtype=np.bool_)
    if fixed_at is not None:
        text_only = sound & (np.diff(rows["images/offsets"]) == 0)
        dummy[text_only, fixed_at : fixed_at + params.num_patches] = True

    wrongly_hidden: _Array = (hidden != (beyond | dummy)) & sound[:, None]
    yield (
        "key_padding_mask does not hide exactly the padding and the dummy slots of a fixed text-only row",
        _rows_where(wrongly_hidden),
    )
    yield "an image slot does not hold pad_id", _rows_where((ids != pad) & (attended_slots | dummy))
    yield "padding does not hold pad_id", _rows_where(((ids != pad) | (labels != pad)) & beyond)
    ends = np.zeros((count, width), dtype=np.bool_)
    ends[of_sample, starts + lengths - 1] = True
    within: _Array = ~(beyond | ends) & sound[:, None]
    yield (
        "labels is not text_input_ids one position later",
        _rows_where((labels[:, :-1] != ids[:, 1:]) & within[:, :-1]),
    )
    yield "padding is supervised", _rows_where((loss != 0) & beyond)
    yield (
        "an image slot, or in a fixed row the text before it, is supervised",
        _rows_where((loss != 0) & _must_be_unsupervised(rows, params, of_image, image_starts, slots, sample, dummy)),
    )
    losses = np.concatenate((np.zeros((count, 1), np.int64), np.cumsum(loss, axis=1, dtype=np.int64)), axis=1)
    none = losses[of_sample, starts + lengths] == losses[of_sample, starts]
    yield "nothing is supervised in a sample", _in_rows(of_sample, none, count)
    if params.bos_id >= 0 and begins_with_bos(params.config.dataset.system_prompt_style):
        begins_with_image = attended_slots[of_sample, starts] | dummy[of_sample, starts]
        no_bos = ~begins_with_image & (ids[of_sample, starts] != params.bos_id)
        yield "a sample does not begin with BOS", _in_rows(of_sample, no_bos, count)
    paths = rows["images/path"].tolist()
    of_path = rows_of_entries(rows, "images")
    no_path = np.array([not path for path in paths], dtype=np.bool_)
    yield "an image has no path", _in_rows(of_path, no_path, count)
    not_utf8 = np.array([not _is_utf8(path) for path in paths], dtype=np.bool_)
    yield "images/path is not UTF-8", _in_rows(of_path, not_utf8, count)


def _must_be_unsupervised(
    rows: Mapping[str, _Array],
    params: DataParams,
    of_image: _Array,
    image_starts: _Array,
    slots: _Array,
    sample: _Array,
    dummy: _Array,
) -> _Array:
    """Return the positions that must not be supervised, (n, max_sequence_length) bool.

    These are the positions whose label is an image slot and, in fixed rows, all positions before the image. The label
    of the last slot is the first token after the image; it may be supervised except in a fixed text-only row, where
    the slot is a dummy.
    """
    count, width = dummy.shape
    if params.image_start_idx is not None:
        before = np.broadcast_to(np.arange(width) < params.image_start_idx + params.num_patches - 1, dummy.shape)
        return before | dummy
    # For an image at the start of its sample, the position before it belongs to the previous sample.
    starts_sample = image_starts == rows["samples/start"][sample]
    return _runs(of_image, image_starts - 1 + starts_sample, slots - starts_sample, (count, width))


def _runs(of_row: _Array, starts: _Array, lengths: _Array, shape: tuple[int, int]) -> _Array:
    """Return a mask of the given shape that is True in `lengths[i]` positions from `starts[i]` in row `of_row[i]`."""
    edges = np.zeros((shape[0], shape[1] + 1), dtype=np.int32)
    np.add.at(edges, (of_row, starts), 1)
    np.add.at(edges, (of_row, starts + lengths), -1)
    inside: _Array = np.cumsum(edges[:, :-1], axis=1) > 0
    return inside


def _in_rows(of_row: _Array, broken: _Array, count: int) -> _Array:
    """Return a mask of the rows that have a broken table entry."""
    found = np.zeros(count, dtype=np.bool_)
    found[of_row[broken]] = True
    return found


def _rows_where(condition: _Array) -> _Array:
    """Return a mask of the rows in which the condition holds at any position."""
    rows: _Array = np.logical_or.reduce(condition, axis=1)
    return rows


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
