"""Sampling of some records before a run starts."""

from __future__ import annotations

import gzip
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUICKSTART, turn_pair, write_jsonl

from hdf5_writer import create_hdf5_dataset
from hdf5_writer.engines.local import WarmedPools
from hdf5_writer.planning.probe import MAX_PROBED, probed_records
from preprocess.preprocess_dataset import convert_json2jsonl_main

IMAGES = QUICKSTART / "images"


def records(count: int, image: str = "shapes/0001.png") -> list[dict[str, Any]]:
    return [{"image": image, "conversations": turn_pair("<image>\nWhat is it?", f"A {i}.")} for i in range(count)]


def run(tmp_path: Path, *arguments: str) -> int:
    return create_hdf5_dataset.main(
        [
            *("--config", "quickstart.yaml", f"setup.input_dir={tmp_path / 'in'}"),
            *(f"setup.output_dir={tmp_path / 'out'}", "setup.processes=1", f"dataset.image_dir={IMAGES}", *arguments),
        ]
    )


@pytest.mark.parametrize("counts", [[1], [499], [2_000_000], [1_000_000, 300], [0, 3, 0], [5] * 400, [7, 900, 20]])
def test_some_records_of_every_input_are_sampled(counts: list[int]) -> None:
    probed = probed_records(counts)
    assert len(probed) == len(set(probed.tolist())) <= MAX_PROBED
    ends = np.cumsum(counts)
    assert 0 <= probed.min() <= probed.max() < ends[-1]
    if len(counts) <= MAX_PROBED // 2:
        files = set(np.searchsorted(ends, probed, side="right").tolist())
        assert files == {number for number, count in enumerate(counts) if count}


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_a_wrong_image_folder_stops_the_run_before_writing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", records(30, "nowhere/1.png"))
    for arguments in ([], ["--overwrite"], ["--task-slice", "0/2"]):
        assert run(tmp_path, *arguments) == 2
        stderr = capsys.readouterr().err
        assert "30 of 30 sampled records would be rejected as image_missing" in stderr
        assert f"{tmp_path / 'in' / 'a.jsonl'}, line 1" in stderr
        assert f"(tried {IMAGES / 'nowhere/1.png'})" in stderr
        assert "--keep-going" in stderr
        assert not list((tmp_path / "out").glob("*.h5"))
    assert run(tmp_path, "--keep-going") == 3, "the limit on rejects still applies at the end"
    warning = capsys.readouterr().err
    assert "warning: 30 of 30 sampled records" in warning
    assert "--keep-going" not in warning
    assert json.loads((tmp_path / "out" / "data_params.json").read_bytes())["counts"]["rejected"] == 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("record", "changes", "reason"),
    [
        ({"system": "Be nice.", "conversations": turn_pair("hi", "yo")}, [], "supervised_at_dummy_image"),
        (
            {"conversations": turn_pair("Count.", "one two " * 60)},
            ["processor.overflow=reject", "processor.max_sequence_length=620"],
            "too_long",
        ),
    ],
    ids=["supervised_at_dummy_image", "too_long"],
)
def test_rejects_that_are_found_after_tokenizing_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record: dict[str, Any], changes: list[str], reason: str
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [record] * 30)
    assert run(tmp_path, "dataset.record_format=sharegpt", *changes) == 2
    assert f"30 of 30 sampled records would be rejected as {reason}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_overwrite_keeps_the_old_dataset_if_the_image_folder_is_wrong(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", records(30))
    assert run(tmp_path) == 0
    before = (tmp_path / "out" / "data_params.json").read_bytes()
    assert run(tmp_path, "--overwrite", f"dataset.image_dir={tmp_path}") == 2
    assert (tmp_path / "out" / "data_params.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_overwrite_keeps_the_old_dataset_if_the_config_cannot_work(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", records(3))
    assert run(tmp_path) == 0
    before = (tmp_path / "out" / "data_params.json").read_bytes()
    assert run(tmp_path, "--overwrite", "--keep-going", "dataset.image_dir=") == 2
    assert (tmp_path / "out" / "data_params.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_a_run_interrupted_during_sampling_samples_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", records(30, "nowhere/1.png"))
    with monkeypatch.context() as patch:
        patch.setattr(WarmedPools, "run", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert run(tmp_path) == 143
    assert run(tmp_path) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_images_are_not_accessed_if_checks_are_off(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", records(30, "nowhere/1.png"))
    assert run(tmp_path, "dataset.check_images=none") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_few_bad_records_or_a_small_file_do_not_stop_the_run(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [*records(16), *records(14, "nowhere/1.png")])
    assert run(tmp_path, "setup.max_reject_fraction=1") == 0
    write_jsonl(tmp_path / "in" / "a.jsonl", records(19, "nowhere/1.png"))
    assert run(tmp_path, "--overwrite", "setup.max_reject_fraction=1") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize("indent", [None, 1])
def test_for_a_json_array_named_jsonl_the_converter_is_suggested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], indent: int | None
) -> None:
    write_jsonl(tmp_path / "in" / "b.jsonl", records(30))
    (tmp_path / "in" / "a.jsonl").write_text(json.dumps(records(30), indent=indent))
    assert run(tmp_path) == 2
    stderr = capsys.readouterr().err
    assert f"name it a.json, run `convert_json2jsonl --input_dir {tmp_path / 'in'}`" in stderr
    (tmp_path / "in" / "a.jsonl").rename(tmp_path / "in" / "a.json")
    assert convert_json2jsonl_main(["--input_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "lines")]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_for_a_compressed_json_array_named_jsonl_the_converter_is_suggested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(records(3), indent=1).encode()))
    assert run(tmp_path) == 2
    stderr = capsys.readouterr().err
    assert f"unpack it and name it a.json, run `convert_json2jsonl --input_dir {tmp_path / 'in'}`" in stderr


@pytest.mark.slow
def test_files_that_are_not_images_cause_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    os.link(IMAGES / "shapes" / "0001.png", images / "b.png")
    write_jsonl(tmp_path / "in" / "a.jsonl", [*records(10, "a.png"), *records(15, "b.png")])
    assert run(tmp_path, f"dataset.image_dir={images}", "dataset.check_images=exists") == 0
    stderr = capsys.readouterr().err
    assert f"10 of 25 sampled image files are not images, such as {images / 'a.png'}" in stderr
    assert "warning: 1 of 2 sampled image files are unreadable, such as a.png." in stderr, "by the report"
