import tracemalloc

import pytest
from real_excerpts import SHARED, with_real_excerpts


def test_both_sets_of_field_names_are_read_and_each_split_has_a_folder(preprocess, tmp_path, write_json):
    shared = {"question": "How many bars?", "answer": "two", "image": "bar_train_00000001.png"}
    files = {"question_id": 7, "template_id": "structure", "answer_bbox": [], **shared}
    readme = {"question_id": 8, "question_type": "structure", "bbox_answer": [], **shared}
    write_json(tmp_path / "train_qa.json", [files, readme])
    write_json(tmp_path / "val_hard_qa.json", [files])
    result = preprocess("dvqa", "--dataset_folder", tmp_path, into=tmp_path / "llava_jsonl")
    assert [record["id"] for record in result.records] == ["dvqa_train_7", "dvqa_train_8", "dvqa_val_hard_7"]
    assert result.records[0]["image"] == "DVQA/images/bar_train_00000001.png"
    assert result.records[0]["conversations"] == [
        {"from": "human", "value": "<image>\nHow many bars?\nAnswer the question using a single word or phrase."},
        {"from": "gpt", "value": "two"},
    ]


def test_questions_with_missing_fields_are_rejected(preprocess, tmp_path, write_json):
    whole = {"question_id": 1, "question": "q", "answer": "a", "image": "x.png"}
    parts = [{k: v for k, v in whole.items() if k != left_out} for left_out in whole]
    write_json(tmp_path / "train_qa.json", parts)
    result = preprocess("dvqa", "--dataset_folder", tmp_path, into=tmp_path / "llava_jsonl")
    assert [reason for _, reason in result.reasons] == ["no_id", "no_question", "no_answer", "no_image"]


def test_a_truncated_file_is_an_error_with_byte_offset_and_leaves_no_output(preprocess, tmp_path):
    (tmp_path / "train_qa.json").write_text('[{"question_id": 1, "question": "q", "answer": "a", "image": "x.png"}, {')
    result = preprocess("dvqa", "--dataset_folder", tmp_path, into=tmp_path / "llava_jsonl")
    assert result.code == 2
    assert "train_qa.json: byte 72: the file ends inside element 1" in result.err
    assert [path for path in (tmp_path / "llava_jsonl").rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_memory_stays_far_below_the_size_of_the_file(preprocess, tmp_path, write_json):
    entry = {"question": "Which bar is the longest one? " * 5, "answer": "two", "image": "bar.png", "question_id": 0}
    path = write_json(tmp_path / "train_qa.json", [entry] * 40_000)
    tracemalloc.start()
    result = preprocess("dvqa", "--dataset_folder", tmp_path, into=tmp_path / "nothing")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "40,000 read = 40,000 written" in result.out
    assert path.stat().st_size > 8 << 20
    assert peak < 5 << 20


@with_real_excerpts
def test_all_records_of_the_real_excerpt_are_converted(preprocess, tmp_path):
    (tmp_path / "val_hard_qa.json").write_bytes((SHARED / "raw/dvqa/dvqa_qa_excerpt.json").read_bytes())
    result = preprocess("dvqa", "--dataset_folder", tmp_path, into=tmp_path)
    assert [record["id"] for record in result.records] == [
        "dvqa_val_hard_3101",
        "dvqa_val_hard_3102",
        "dvqa_val_hard_299202",
    ]
    assert [record["conversations"][1]["value"] for record in result.records] == ["two", "brave", "pair"]
