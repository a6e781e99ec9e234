import json

import pytest
from real_excerpts import SHARED, with_real_excerpts


def document(**changes):
    return {
        "questionId": 337,
        "question": "what is the date mentioned in this letter?",
        "image": "documents/xnbl0037_1.png",
        "docId": 279,
        "answers": ["1/8/93", "1/8/1993"],
        "data_split": "train",
        **changes,
    }


def infographic(**changes):
    return {
        "questionId": 98313,
        "question": "Which platform has a female audience?",
        "image_local_name": "37313.jpeg",
        "image_url": "https://example.org/1.png",
        "answers": ["pinterest"],
        **changes,
    }


def whole(data):
    return {"dataset_name": "SP-DocVQA", "dataset_split": "train", "dataset_version": "1.0", "data": data}


def run(preprocess, command, folder):
    return preprocess(command, "--dataset_folder", folder, into=folder)


@pytest.mark.parametrize("wrap", [whole, list])
def test_the_first_answer_and_the_base_name_of_the_image_are_used(preprocess, tmp_path, write_json, wrap):
    write_json(tmp_path / "train_v1.0_withQT.json", wrap([document(), document(answers=[" ", "x"], image="y.png")]))
    result = run(preprocess, "sp_docvqa", tmp_path)
    assert result.code == 0, result.err
    assert [(r["id"], r["image"], r["conversations"][1]["value"]) for r in result.records] == [
        ("sp_docvqa_train_337", "DocVQA/sp_docvqa/images/xnbl0037_1.png", "1/8/93"),
        ("sp_docvqa_train_337", "DocVQA/sp_docvqa/images/y.png", "x"),
    ]
    assert (tmp_path / "llava_jsonl/train/train.jsonl").exists()


def test_another_edition_of_a_split_is_not_converted_in_addition(preprocess, tmp_path, write_json):
    write_json(tmp_path / "val_v1.0.json", whole([document()]))
    assert run(preprocess, "sp_docvqa", tmp_path).code == 0
    write_json(tmp_path / "val_v1.0_withQT.json", whole([document()]))
    result = run(preprocess, "sp_docvqa", tmp_path)
    assert result.code == 2
    assert "--overwrite" in result.err
    assert preprocess("sp_docvqa", "--dataset_folder", tmp_path, "--overwrite", into=tmp_path).code == 0
    assert [path.name for path in (tmp_path / "llava_jsonl/val").glob("*.jsonl")] == ["val.jsonl"]


def test_an_output_of_version_0_1_must_be_removed_first(preprocess, tmp_path, write_json):
    write_json(tmp_path / "val_v1.0_withQT.json", whole([document()]))
    folder = tmp_path / "llava_jsonl/val"
    folder.mkdir(parents=True)
    (folder / "val_v1.0_withQT.jsonl").write_text("{}\n", encoding="utf-8")
    (folder / "mine.jsonl").write_text("{}\n", encoding="utf-8")
    result = run(preprocess, "sp_docvqa", tmp_path)
    assert result.code == 2
    assert "val_v1.0_withQT.jsonl has the same questions as the new val.jsonl" in result.err
    (folder / "val_v1.0_withQT.jsonl").unlink()
    assert run(preprocess, "sp_docvqa", tmp_path).code == 0


def test_the_test_split_is_rejected_record_by_record(preprocess, tmp_path, write_json):
    without = document()
    del without["answers"]
    write_json(tmp_path / "test_v1.0.json", whole([without, document(answers=[])]))
    write_json(tmp_path / "train_v1.0_withQT.json", whole([document()]))
    result = run(preprocess, "sp_docvqa", tmp_path)
    assert result.code == 0
    assert result.reasons == [("element 0", "no_answer"), ("element 1", "no_answer")]
    assert "2 files: 3 read = 1 written + 2 rejected" in result.out


def test_only_one_of_two_editions_of_a_split_is_read_and_the_other_reported(preprocess, tmp_path, write_json):
    write_json(tmp_path / "val_v1.0.json", whole([document()]))
    write_json(tmp_path / "val_v1.0_withQT.json", whole([document()]))
    result = run(preprocess, "sp_docvqa", tmp_path)
    assert len(result.records) == 1
    assert "not used: val_v1.0.json, which has the same questions as val_v1.0_withQT.json" in result.out


def test_infographics_are_converted(preprocess, tmp_path, write_json):
    write_json(tmp_path / "infographicsVQA_train_v1.0.json", whole([infographic()]))
    write_json(tmp_path / "infographicsVQA_val_v1.0_withQT.json", whole([infographic(image_local_name="../1.png")]))
    result = run(preprocess, "infographics_docvqa", tmp_path)
    (record,) = result.records
    assert record["id"] == "infographicsvqa_train_98313"
    assert record["image"] == "DocVQA/Infographicsvqa/images/37313.jpeg"
    assert record["conversations"] == [
        {
            "from": "human",
            "value": "<image>\nWhich platform has a female audience?\n"
            "Answer the question using a single word or phrase.",
        },
        {"from": "gpt", "value": "pinterest"},
    ]
    assert result.reasons == [("element 0", "image_outside_prefix")]


def test_an_object_without_data_is_an_error(preprocess, tmp_path, write_json):
    write_json(tmp_path / "val_v1.0.json", {"dataset_name": "SP-DocVQA", "questions": []})
    result = run(preprocess, "sp_docvqa", tmp_path)
    assert result.code == 2
    assert "no key 'data' among the keys 'dataset_name', 'questions'" in result.err


@with_real_excerpts
def test_all_records_of_the_real_excerpts_are_converted(preprocess, tmp_path):
    source = SHARED / "raw/sp-docvqa/val_v1.0.json"
    (tmp_path / "val_v1.0.json").write_bytes(source.read_bytes())
    entries = json.loads(source.read_text())
    result = run(preprocess, "sp_docvqa", tmp_path)
    assert len(entries) == len(result.records) == 10
    for entry, record in zip(entries, result.records, strict=True):
        assert record["image"] == "DocVQA/sp_docvqa/images/" + entry["image"].split("/")[-1]
        assert record["conversations"][1]["value"] == entry["answers"][0]

    other = tmp_path / "infographics"
    other.mkdir()
    source = SHARED / "raw/infographicsvqa/infographicsvqa_excerpt.json"
    (other / "infographicsVQA_val_v1.0_withQT.json").write_bytes(source.read_bytes())
    (record,) = run(preprocess, "infographics_docvqa", other).records
    assert record["conversations"][1]["value"] == "pinterest"
