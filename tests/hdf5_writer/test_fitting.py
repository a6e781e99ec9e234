"""Truncation of samples to the length of a row: what is kept, counted and rejected."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from drawn_samples import PAD, fixed_layouts, free_layouts, samples_for
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_rows import SLOT, fitted, sequence_of

from hdf5_writer.fitting import SampleMeasures, fit_samples
from hdf5_writer.rows import RowLayout
from preprocess.rejects import Reason, Rejected
from preprocess.samples import Sample, SampleBatch, batch_of, join_batches

FIXED = RowLayout(max_sequence_length=12, num_patches=4, image_start_idx=2, pad_id=PAD, truncate=True)
FREE = RowLayout(max_sequence_length=12, num_patches=4, image_start_idx=None, pad_id=PAD, truncate=True)


def sample(ids: list[int], spans: list[tuple[int, int]], *image_at: int) -> Sample:
    return Sample(np.array(ids, dtype=np.int32), spans, image_at)


def fit(one: Sample, layout: RowLayout) -> tuple[SampleBatch, SampleMeasures]:
    """Fit one sample; raise if it does not fit."""
    batch, measures, failed = fit_samples(batch_of(one), layout)
    for error in failed.values():
        raise error
    return batch, measures


@pytest.mark.slow
@settings(deadline=None, max_examples=120)
@given(data=st.data())
def test_measures_describe_the_truncated_sequences(data: st.DataObject) -> None:
    layout = data.draw(st.one_of(fixed_layouts(), free_layouts()))
    samples = data.draw(st.lists(samples_for(layout), min_size=1, max_size=6))
    batch, measures, failed = fit_samples(join_batches([batch_of(one) for one in samples]), layout)
    found = [fitted(one, layout) for one in samples]
    assert set(failed) == {number for number, kept in enumerate(found) if kept is None}
    for error in failed.values():
        assert isinstance(error, Rejected)
        assert error.reason is Reason.NOTHING_SUPERVISED
    rest = [(one, kept) for one, kept in zip(samples, found, strict=True) if kept is not None]
    assert batch.records == len(rest)
    for number, (one, (sequence, supervised, images)) in enumerate(rest):
        flags = [place in supervised for place, token in enumerate(sequence) if token is not SLOT]
        longest = layout.max_sequence_length + 1
        assert {name: array[number].item() for name, array in measures._asdict().items()} == {
            "length": len(sequence) - 1,
            "text_tokens": sum(token is not SLOT for token in sequence) - 1,
            "images": images,
            "images_cut": len(one.image_at) - images,
            "supervised": len(supervised),
            "rounds": sum(b > a for a, b in itertools.pairwise(flags)) + flags[0],
            "truncated": len(sequence_of(one, layout)[0]) > longest,
        }
        assert batch.part(number, number + 1).ids.tolist() == [token for token in sequence if token is not SLOT]


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_truncation_does_not_depend_on_other_samples_of_the_batch(data: st.DataObject) -> None:
    layout = data.draw(free_layouts())
    samples = data.draw(st.lists(samples_for(layout), min_size=2, max_size=6))
    together, measures, _ = fit_samples(join_batches([batch_of(one) for one in samples]), layout)
    alone = [fit_samples(batch_of(one), layout) for one in samples]
    joined = join_batches([batch for batch, _, _ in alone])
    for one, other in zip(together, joined, strict=True):
        assert np.array_equal(one, other)
    for name, array in measures._asdict().items():
        assert array.tolist() == [value for _, found, _ in alone for value in getattr(found, name).tolist()]


def test_truncation_never_cuts_image_slots_and_keeps_the_last_label() -> None:
    batch, measures = fit(sample([1, 2, *range(10, 30)], [(2, 22)], 2), FIXED)
    assert measures.truncated.all()
    assert batch.ids.tolist() == [1, 2, *range(10, 17)]
    assert measures.length.tolist() == [12]


def test_a_free_text_only_sample_has_the_whole_row() -> None:
    text = sample([1, *range(10, 40)], [(3, 31)])
    assert fit(text, FREE)[1].text_tokens.tolist() == [12]
    assert fit(text, FIXED)[1].text_tokens.tolist() == [8]


def test_a_sample_is_truncated_before_an_image_that_does_not_fit() -> None:
    # 4 tokens, 4 slots, 3 tokens, 4 slots that would end at position 15, 2 tokens.
    batch, measures = fit(sample([1, 2, 3, 4, 5, 6, 7, 8, 9], [(4, 6), (7, 9)], 4, 7), FREE)
    assert batch.ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert (measures.images.tolist(), measures.images_cut.tolist(), measures.length.tolist()) == ([1], [1], [10])


def test_an_image_without_supervised_tokens_after_it_is_truncated() -> None:
    # The second image fits, but the answer after it does not.
    batch, measures = fit(sample([1, 2, 3, 4, 5, 6, 7, 8], [(2, 4), (7, 8)], 0, 4), FREE)
    assert batch.ids.tolist() == [1, 2, 3, 4]
    assert (measures.images.tolist(), measures.images_cut.tolist()) == ([1], [1])


def test_an_image_whose_slots_would_fill_the_row_does_not_fit() -> None:
    with pytest.raises(Rejected, match="nothing is supervised before image 1, which does not fit into 12 positions"):
        fit(sample([1, *range(8), 9], [(9, 10)], 9), FREE)
    batch, measures = fit(sample([1, *range(7), 9], [(8, 9)], 8), FREE)
    assert (batch.ids.tolist(), measures.length.tolist()) == ([1, *range(7), 9], [12])


def test_of_a_thousand_images_those_that_fit_are_kept() -> None:
    layout = RowLayout(2048, 4, None, PAD, truncate=True)
    ids = [1] + [5, 6] * 1000
    spans = [(2 + 2 * number, 3 + 2 * number) for number in range(1000)]
    _, measures = fit(sample(ids, spans, *(1 + 2 * number for number in range(1000))), layout)
    assert measures.images.tolist() == [341]
    assert measures.images_cut.tolist() == [659]


@pytest.mark.parametrize("layout", [FIXED, FREE])
def test_long_samples_are_rejected_if_truncation_is_off(layout: RowLayout) -> None:
    layout = RowLayout(12, 4, layout.image_start_idx, PAD, truncate=False)
    exactly = [1, 2, *range(10, 17)]
    fit(sample(exactly, [(2, 9)], 2), layout)
    with pytest.raises(Rejected) as rejected:
        fit(sample([*exactly, 17], [(2, 10)], 2), layout)
    assert rejected.value.reason is Reason.TOO_LONG
    assert "13 positions, images included, expected at most max_sequence_length 12" in rejected.value.detail


def test_a_fixed_text_only_sample_whose_answer_follows_the_dummy_image_is_rejected() -> None:
    for spans in ([(2, 5)], [(1, 5)]):
        with pytest.raises(Rejected) as rejected:
            fit(sample([1, 2, 3, 4, 5], spans), FIXED)
        assert rejected.value.reason is Reason.SUPERVISED_AT_DUMMY_IMAGE
        assert "set processor.packing: best_fit or dataset.max_images above 1" in rejected.value.detail
        fit(sample([1, 2, 3, 4, 5], spans), FREE)


def test_an_image_at_another_position_does_not_fit_a_fixed_row() -> None:
    with pytest.raises(Rejected, match="the image comes after 3 tokens, but fixed rows have it after 2"):
        fit(sample([1, 2, 3, 4], [(3, 4)], 3), FIXED)
    fit(sample([1, 2, 3, 4], [(3, 4)], 3), FREE)


def test_the_first_token_is_not_a_label_unless_an_image_precedes_it() -> None:
    assert fit(sample([1, 2, 3], [(0, 2)]), FREE)[1].supervised.tolist() == [1]
    assert fit(sample([1, 2, 3], [(0, 2)], 0), FREE)[1].supervised.tolist() == [2]
