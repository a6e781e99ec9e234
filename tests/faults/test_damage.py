"""Verification finds any flipped bit and any truncation of any output file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from conftest import ConfigMaker
from damage import FORMS, damaged, finished_folder, output_files

from hdf5_writer.verify import verify_dataset

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("form", FORMS)
def test_every_flipped_bit_and_truncation_is_detected(
    make_config: ConfigMaker, tmp_path: Path, rounds: int, form: str
) -> None:
    out = finished_folder(make_config, tmp_path, form)
    assert verify_dataset(out).problems == []
    files = output_files(out)
    choose, missed = random.Random(rounds), []
    for number in range(5 * rounds):  # 1,000 in the long part
        path = choose.choice(files)
        with damaged(path, choose, cut=number % 2 == 0) as at:
            if not any(str(path) in problem for problem in verify_dataset(out).problems):
                missed.append((path.name, at))
    assert missed == []
    assert verify_dataset(out).problems == []
