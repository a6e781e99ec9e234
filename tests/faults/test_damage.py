"""Flip any bit, or cut anywhere, in any file of the output: verify finds it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from conftest import ConfigMaker, create, turn_pair, write_jsonl

from hdf5_writer.verify import verify_dataset

pytestmark = pytest.mark.faults


@pytest.fixture
def out(make_config: ConfigMaker, tmp_path: Path) -> Path:
    records = [{"id": i, "conversations": turn_pair(f"Question {i}?", f"Answer {i}.")} for i in range(11)]
    write_jsonl(tmp_path / "in" / "a.jsonl", [*records, {}])
    (tmp_path / "in" / "a.jsonl").open("a").write("\n\n" + '{"conversations": []}\n')
    create(make_config(setup__samples_per_shard=5))
    return tmp_path / "out"


def test_every_flipped_bit_and_every_cut_is_found(out: Path, rounds: int) -> None:
    assert verify_dataset(out).problems == []
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and "lock" not in path.name]
    names = {path.name for path in files}
    assert {"plan.json", "offsets.i64", "lines.i64", "data_params.json", "rejects.jsonl", "00000.json"} <= names
    choose, missed = random.Random(rounds), []
    for number in range(5 * rounds):  # 1,000 in the long part
        path = choose.choice(files)
        data = path.read_bytes()
        if number % 2:
            at = choose.randrange(8 * len(data))
            harmed = bytearray(data)
            harmed[at // 8] ^= 1 << at % 8
        else:
            at = choose.randrange(len(data))
            harmed = bytearray(data[:at])
        path.write_bytes(harmed)
        if not any(str(path) in problem for problem in verify_dataset(out).problems):
            missed.append((path.name, at))
        path.write_bytes(data)
    assert missed == []
    assert verify_dataset(out).problems == []
