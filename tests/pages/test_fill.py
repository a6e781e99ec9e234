"""The predicted fill of rows equals that of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import QUICKSTART, ConfigMaker, create
from stored_samples import stored_samples

from benchmarks.generate import phase_2_records, write_records
from hdf5_writer.dry_run import describe_plan
from hdf5_writer.report.fill import expected_fill
from preprocess.tokenize.tokenizer import load_tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("length", [700, 1100])
def test_the_predicted_fill_equals_that_of_the_run(tmp_path: Path, make_config: ConfigMaker, length: int) -> None:
    write_records(tmp_path / "in" / "a.jsonl", phase_2_records(load_tokenizer(str(QUICKSTART / "tokenizer")), 300))
    same = {"dataset__check_images": "none", "dataset__image_size": 224}
    create(make_config(processor__max_sequence_length=4096, setup__output_dir=str(tmp_path / "whole"), **same))
    samples = stored_samples(tmp_path / "whole").values()
    attended = np.array([len(sample.ids) for sample in samples])
    images = np.array([len(sample.images) for sample in samples])
    estimate = expected_fill(attended, images, length, 256, None)
    for packing, fill in (("none", estimate.unpacked), ("best_fit", estimate.packed)):
        config = make_config(
            processor__max_sequence_length=length,
            processor__packing=packing,
            setup__output_dir=str(tmp_path / packing),
            **same,
        )
        params = create(config, keep_going=True).params
        assert params["counts"]["rejected"] == 0
        assert params["fill"] == pytest.approx(fill, abs=1e-6)
        shown = f"{length:>20,} {estimate.unpacked:>8.1%}  {estimate.packed:>8.1%}"
        assert f"{shown}  {estimate.samples_per_row:>11.2f} (chosen)" in describe_plan(config, None)
    assert params["samples"] / params["rows"] == pytest.approx(estimate.samples_per_row)
