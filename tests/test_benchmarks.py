"""The baselines of the benchmark do the work they are measured for, and its guard judges."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import QUICKSTART

from benchmarks import __main__ as command
from benchmarks import baselines, measure, preprocessing, scaling
from benchmarks.generate import phase_1_records, phase_2_records, write_records
from preprocess.tokenize.tokenizer import load_tokenizer

TOKENIZER = QUICKSTART / "tokenizer"


@pytest.fixture(params=[1, 2])
def phase(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


def options_for(tmp_path: Path, phase: int, count: int = 40) -> argparse.Namespace:
    records = phase_1_records if phase == 1 else phase_2_records
    data = write_records(tmp_path / "a.jsonl", records(load_tokenizer(str(TOKENIZER)), count))
    return argparse.Namespace(data=data, tokenizer=TOKENIZER, out=tmp_path / "out", processes=1, plain=phase == 1)


def ours(tmp_path: Path, data: Path, phase: int) -> h5py.File:
    contestant = measure.Contestant("ours", preprocessing.command(TOKENIZER, data, tmp_path / "ours", phase, 1), 40)
    measure.run_once(contestant, measure.Measured("ours", 40, ""))
    (shard,) = (tmp_path / "ours").glob("*.h5")
    return h5py.File(shard)


@pytest.mark.slow
def test_the_h5py_baseline_makes_rows_like_ours(tmp_path: Path, phase: int) -> None:
    options = options_for(tmp_path, phase)
    assert baselines.h5py_gzip(options) > 0
    (file,) = options.out.glob("*.h5")
    with h5py.File(file) as theirs, ours(tmp_path, options.data, phase) as mine:
        order = np.argsort(mine["samples/source_line"][:])
        for name in ("text_input_ids", "labels", "loss_mask", "key_padding_mask"):
            assert theirs[name].shape == mine[name].shape
        # They tokenize turn by turn, so some ids more or less.
        for name, most in (("key_padding_mask", 16), ("loss_mask", 8)):
            difference = theirs[name][:].sum(axis=1) - mine[name][:][order].sum(axis=1, dtype=np.int64)
            assert np.abs(difference).max() <= most, name
        supervised = theirs["labels"][:][theirs["loss_mask"][:] == 1]
        assert np.intersect1d(supervised, mine["labels"][:][mine["loss_mask"][:] == 1]).size > 40
        has_image = np.diff(mine["images/offsets"][:]) > 0
        assert [path != b"" for path in theirs["image_paths"][:, 0]] == has_image[order].tolist()
        assert set(theirs["image_paths"][:, 0]) - {b""} == set(mine["images/path"][:])


@pytest.mark.slow
def test_the_on_the_fly_baseline_calls_the_tokenizer_for_every_round_again(
    tmp_path: Path, phase: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = baselines.tokenize_around_image

    def counted(text: str, tokenizer: Any) -> list[int]:
        calls.append(text)
        return real(text, tokenizer)

    monkeypatch.setattr(baselines, "tokenize_around_image", counted)
    assert baselines.on_the_fly(options_for(tmp_path, phase)) > 0
    assert len(calls) == 40 * (2 if phase == 1 else 1 + 2 * 4)


@pytest.mark.slow
def test_the_batch_call_sees_every_text(tmp_path: Path, phase: int) -> None:
    options = options_for(tmp_path, phase)
    assert baselines.batch_call(options) > 0
    assert baselines.batch_call_fast(options) > 0


@pytest.mark.slow
def test_masked_turns_supervise_the_answers(tmp_path: Path) -> None:
    record = next(baselines.read_lines(options_for(tmp_path, 2).data))
    tokenizer = baselines.load_fast_tokenizer(TOKENIZER)
    batch = baselines.MaskedTurns(tokenizer, plain=False)({"conversations": [record["conversations"]]})
    kept = [id_ for id_ in batch["labels"][0] if id_ != baselines.IGNORE]
    assert (
        tokenizer.decode(kept).split()
        == " ".join(f"{turn['value']}</s>" for turn in record["conversations"][1::2])
        .replace("</s> ", "</s>")
        .replace("</s>", "</s> ")
        .split()
    )


@pytest.mark.slow
def test_generated_records_are_the_same_everywhere() -> None:
    tokenizer = load_tokenizer(str(TOKENIZER))
    for records in (phase_1_records, phase_2_records):
        assert list(records(tokenizer, 5)) == list(records(tokenizer, 9))[:5]
        assert len({json.dumps(record["conversations"]) for record in records(tokenizer, 60)}) == 60


def test_a_contestant_that_fails_says_what_it_printed() -> None:
    contestant = measure.Contestant("broken", ["-c", "raise SystemExit('no such thing')"], 1)
    with pytest.raises(RuntimeError, match="broken ended with 1:\nno such thing"):
        measure.run_alternating([contestant], 1, lambda _: None)


def test_the_table_compares_with_ours() -> None:
    mine = measure.Measured("ours", 100, "", [1.0, 2.0, 4.0], 2**20, 700)
    theirs = measure.Measured("theirs", 100, "labels", [8.0], 2**21)
    assert measure.table([mine, theirs], "ours").splitlines()[2:] == [
        "| ours | 50 | – | 1 MB | 7 | – |",
        "| theirs | 12 | 4.00× | 2 MB | – | labels |",
    ]


def test_the_guard_refuses_a_ratio_under_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = tmp_path / "bounds.json"
    bounds.write_text('{"fast": 2.0, "small": 10}')
    monkeypatch.setattr(command, "BOUNDS", bounds)
    assert command.check_bounds({"fast": 2.1, "small": 10.0, "other": 0.1}) == 0
    assert command.check_bounds({"fast": 1.9, "small": 10.0}) == 1
    assert "| fast | 1.90 | 2.00 **too low** |" in capsys.readouterr().out


def test_the_guard_knows_every_ratio_it_judges() -> None:
    bounds = json.loads(command.BOUNDS.read_text())
    assert len(bounds) >= 6
    assert all(bound > 0 for bound in bounds.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokenizer", "nowhere"], "--tokenizer nowhere: there is no tokenizer.json in it"),
        (["--repeats", "0"], "--repeats is 0, expected at least 1"),
        (["--json", "no/such/folder/a.json"], "there is no such folder"),
        (["--only", "everything"], "invalid choice"),
    ],
)
def test_wrong_options_are_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit):
        command.main()
    assert message in capsys.readouterr().err


@pytest.mark.long
def test_scaling_is_measured_and_shown(tmp_path: Path) -> None:
    points = scaling.measure_scaling(tmp_path, TOKENIZER, lambda _: None, counts=(20, 60))
    assert [row.records for row in points] == [20, 60]
    for row in points:
        assert 0 < row.start_seconds < row.seconds
        assert row.rerun_seconds > 0
        assert row.peak_bytes > 2**20
        assert all(spent > 0 for spent in row.stages.values())
    assert len(scaling.scaling_table(points).splitlines()) == 4
    assert "tokenize" in scaling.stage_table(points[0])
    assert json.dumps(scaling.scaling_json(points))
    assert scaling.scaling_ratios(points).keys() == {"peak memory, 20 against 60 records"}


@pytest.mark.slow
def test_the_memory_of_a_contestant_is_its_own() -> None:
    ballast = bytearray(300 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    small, large = (measure.Measured(name, 1, "") for name in ("small", "large"))
    measure.run_once(measure.Contestant("small", ["-c", ""], 1), small)
    measure.run_once(measure.Contestant("large", ["-c", "b'x' * (200 << 20)"], 1), large)
    assert small.peak_bytes < 60 << 20
    assert 200 << 20 < large.peak_bytes < 260 << 20
