import json

from real_excerpts import SHARED, with_real_excerpts

PROMPT = "\nAnswer the question using a single word or phrase."


def run(preprocess, folder):
    return preprocess("chartqa", "--dataset_folder", folder, into=folder)


def test_each_input_file_gives_one_output_file_in_a_folder_per_split(preprocess, tmp_path, write_json):
    entry = {"imgname": "1.png", "query": "How many?", "label": "3"}
    for split, kind in [("train", "human"), ("train", "augmented"), ("test", "human")]:
        write_json(tmp_path / split / f"{split}_{kind}.json", [entry])
    result = run(preprocess, tmp_path)
    assert result.code == 0
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jsonl")} == {
        "llava_jsonl/train/train_human.jsonl",
        "llava_jsonl/train/train_augmented.jsonl",
        "llava_jsonl/test/test_human.jsonl",
    }
    assert [(record["id"], record["image"]) for record in result.records] == [
        ("chartqa_test_human_0", "ChartQA_Dataset/test/png/1.png"),
        ("chartqa_train_augmented_0", "ChartQA_Dataset/train/png/1.png"),
        ("chartqa_train_human_0", "ChartQA_Dataset/train/png/1.png"),
    ]
    assert "3 files: 3 read = 3 written + 0 rejected" in result.out


def test_the_output_folder_can_be_given(preprocess, tmp_path, write_json):
    write_json(tmp_path / "in/train/train_human.json", [{"imgname": "1.png", "query": "q", "label": 4}])
    out = tmp_path / "out"
    result = preprocess("chartqa", "--dataset_folder", tmp_path / "in", "--output_jsonl_dir", out, into=out)
    assert result.records[0]["conversations"][1]["value"] == "4"
    assert not (tmp_path / "in/llava_jsonl").exists()


def test_an_id_is_the_position_in_the_file_even_after_rejects(preprocess, tmp_path, write_json):
    entries = [
        {"imgname": "1.png", "query": "q", "label": ""},
        {"imgname": "1.png", "query": " ", "label": "x"},
        {"imgname": "", "query": "q", "label": "x"},
        {"imgname": "a/../../x.png", "query": "q", "label": "x"},
        "text",
        {"imgname": "1.png", "query": "q", "label": None},
        {"imgname": "1.png", "query": "q", "label": "x"},
    ]
    write_json(tmp_path / "train/train_human.json", entries)
    result = run(preprocess, tmp_path)
    assert result.reasons == [
        ("element 0", "no_answer"),
        ("element 1", "no_question"),
        ("element 2", "no_image"),
        ("element 3", "image_outside_prefix"),
        ("element 4", "not_an_object"),
        ("element 5", "no_answer"),
    ]
    assert [record["id"] for record in result.records] == ["chartqa_train_human_6"]
    assert "7 read = 1 written + 6 rejected" in result.out


def test_labels_that_look_like_code_are_kept_as_text(preprocess, tmp_path, write_json):
    labels = ["[2017, 2023]", "__import__('os').abort()", "['Yes', 'No']", "\ufffd"]
    write_json(tmp_path / "val/val_human.json", [{"imgname": "1.png", "query": "q", "label": x} for x in labels])
    assert [record["conversations"][1]["value"] for record in run(preprocess, tmp_path).records] == labels


def test_a_folder_without_splits_is_a_wrong_input(preprocess, tmp_path):
    (tmp_path / "ChartQA Dataset").mkdir()
    result = run(preprocess, tmp_path)
    assert result.code == 2
    assert f"did you mean {tmp_path / 'ChartQA Dataset'}?" in result.err


@with_real_excerpts
def test_all_records_of_the_real_excerpt_are_converted(preprocess, tmp_path):
    source = SHARED / "raw/chartqa/test_human_simple.json"
    (tmp_path / "test").mkdir()
    (tmp_path / "test/test_human.json").write_bytes(source.read_bytes())
    result = run(preprocess, tmp_path)
    entries = json.loads(source.read_text())
    assert len(entries) == 143
    assert "143 read = 143 written + 0 rejected" in result.out
    for entry, record in zip(entries, result.records, strict=True):
        assert record["image"] == f"ChartQA_Dataset/test/png/{entry['imgname']}"
        assert record["conversations"][0]["value"] == f"<image>\n{entry['query'].strip()}{PROMPT}"
        assert record["conversations"][1]["value"] == entry["label"].strip()
    assert sum("\ufffd" in record["conversations"][0]["value"] for record in result.records) == 2
    assert "[2017, 2023]" in {record["conversations"][1]["value"] for record in result.records}
