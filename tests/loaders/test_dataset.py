"""Rows by their number, as in any sequence."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="the loaders need torch")

from written import first

from loaders import LlavaH5Dataset
from loaders.samples import WithoutLoss


def test_a_negative_number_counts_from_the_end() -> None:
    dataset = LlavaH5Dataset(first().root)
    for row in (-1, -2, -300):
        sample = dataset[row]
        for name in ("text_input_ids", "labels", "loss_mask", "key_padding_mask"):
            assert np.array_equal(sample[name], first().arrays[name][row])
        assert dataset.source(row) == dataset.source(300 + row)


@pytest.mark.parametrize("row", [300, -301])
def test_a_row_number_out_of_range_is_named(row: int) -> None:
    dataset = LlavaH5Dataset(first().root)
    with pytest.raises(IndexError, match=f"row {row} does not exist; there are 300 rows"):
        dataset[row]


@pytest.mark.parametrize("row", [0, 299, -1])
def test_a_row_without_loss_differs_only_in_its_loss_mask(row: int) -> None:
    dataset = LlavaH5Dataset(first().root)
    with_loss, without = dataset[row], dataset[WithoutLoss(row)]
    assert with_loss["loss_mask"].any()
    assert not without["loss_mask"].any()
    for name in ("text_input_ids", "labels", "key_padding_mask"):
        assert np.array_equal(with_loss[name], without[name])
