"""The summary at the end of a run shows what users need to know before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import ConfigMaker, create, turn_pair, write_jsonl

from hdf5_writer.progress import summary_table


def record(question: str, answer: str = "A circle.", **keys: Any) -> dict[str, Any]:
    return {"conversations": turn_pair(question, answer), **keys}


def warnings_of(params: dict[str, Any]) -> list[str]:
    lines = summary_table(params, read=0, seconds=1.0).splitlines()
    return [line.removeprefix("warning").strip() for line in lines if line.startswith("warning")]


def test_the_summary_warns_with_counts(make_config: ConfigMaker, tmp_path: Path) -> None:
    records = [
        *(record("Same?", data_source="x") for _ in range(3)),
        record("Other?", data_source="x", system="S"),
        record("Long?", "word " * 300),
    ]
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    assert warnings_of(create(make_config(dataset__record_format="llava")).params) == [
        "1 sample (20.0%) cut at 256 positions",
        "1 text-only sample cut; the dummy image occupies 64 of 256 positions",
        "2 samples with the same image and text as another sample",
        "unused keys: data_source 4, system 1",
    ]


def test_the_summary_has_no_warnings_without_findings(make_config: ConfigMaker, tmp_path: Path) -> None:
    """Up to 1 % of truncated rows cause no warning, nor does a dataset without rows."""
    cut = {"image": "shapes/0001.png", "conversations": turn_pair("<image>\nQ", "word " * 300)}
    write_jsonl(tmp_path / "in" / "a.jsonl", [cut, *(record(f"Question {number}?") for number in range(99))])
    params = create(make_config()).params
    assert params["counts"]["truncated"] == 1
    assert warnings_of(params) == []
    write_jsonl(tmp_path / "in" / "a.jsonl", [{}])
    assert warnings_of(create(make_config(), overwrite=True).params) == []


def test_the_summary_shows_five_unused_keys_and_counts_the_rest(make_config: ConfigMaker, tmp_path: Path) -> None:
    keys = {f"key_{number}": number for number in range(7)}
    write_jsonl(tmp_path / "in" / "a.jsonl", [record("Q?", **keys)])
    assert warnings_of(create(make_config()).params) == [
        "unused keys: key_0 1, key_1 1, key_2 1, key_3 1, key_4 1 and 2 more"
    ]


def test_the_summary_escapes_control_characters_of_unused_keys(make_config: ConfigMaker, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [record("Q?", **{"a\nb": 1, "\x1b[31mred": 1})])
    assert warnings_of(create(make_config()).params) == ["unused keys: \\x1b[31mred 1, a\\nb 1"]
