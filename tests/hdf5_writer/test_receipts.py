"""Sums over the receipts match the records."""

from __future__ import annotations

import errno
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ConfigMaker, create, turn_pair, write_jsonl

from hdf5_writer.verify import verify_dataset


def text_record(question: str, **keys: Any) -> dict[str, Any]:
    return {"conversations": turn_pair(question, "A circle."), **keys}


@pytest.mark.slow
def test_dropped_parts_of_written_records_are_counted_over_all_tasks(make_config: ConfigMaker, tmp_path: Path) -> None:
    records = [
        *(text_record(f"Question {number}?", data_source="x") for number in range(4)),
        text_record("Short?", data_source="x", system_prompt="S", system="S"),
        {"id": "dropped", "conversations": [*turn_pair("Q1", ""), *turn_pair("Q2", "A2"), *turn_pair("Q3", " ")]},
        text_record("Rejected?", data_source="x", video="a.mp4"),
        text_record("Once more?"),
        text_record("Once more?"),
        text_record("Once more?"),
    ]
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    counts = create(make_config(setup__samples_per_shard=3, dataset__record_format="llava")).params["counts"]
    assert (counts["written"], counts["rejected_by_reason"]) == (9, {"unsupported_media": 1})
    assert counts["unused_keys"] == {"data_source": 5, "system": 1, "system_prompt": 1}
    assert list(counts["unused_keys"]) == ["data_source", "system", "system_prompt"]
    assert (counts["dropped_rounds"], counts["duplicates"], counts["text_only_cut"]) == (2, 2, 0)
    assert verify_dataset(tmp_path / "out").problems == []


def test_text_only_rows_truncated_because_of_dummy_slots_are_counted(make_config: ConfigMaker, tmp_path: Path) -> None:
    """With 64 of 256 positions as slots; the same text fits into a row with fewer slots."""
    image = {"image": "shapes/0001.png", "conversations": turn_pair("<image>\nQ", "word " * 300)}
    records = [image, {"conversations": turn_pair("Q", "word " * 300)}, text_record("Short?")]
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    counts = create(make_config()).params["counts"]
    assert (counts["truncated"], counts["text_only_cut"]) == (2, 1)


def test_a_full_folder_for_temporary_files_is_named(
    make_config: ConfigMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    write_jsonl(tmp_path / "in" / "a.jsonl", [text_record("Rejected?", video="a.mp4")])
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", Full)
        with pytest.raises(OSError, match="No space left") as raised:
            create(make_config())
    assert raised.value.filename == tempfile.gettempdir()
    assert create(make_config()).params["counts"]["rejected"] == 1
