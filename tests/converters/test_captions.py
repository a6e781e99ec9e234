import json
from collections import Counter

import pytest
from real_excerpts import SHARED, with_real_excerpts

from preprocess.converters.core.brief_instructions import BRIEF_DESCRIPTION, choose


@pytest.fixture
def captions(preprocess, tmp_path):
    def run(source, source_format, *more, prefix="coco/train2017", out=tmp_path / "out"):
        arguments = ["--input", source, "--format", source_format, "--image_prefix", prefix, "--output_jsonl_dir", out]
        return preprocess("captions", *arguments, *more, into=out)

    return run


def questions(result):
    return {record["id"]: record["conversations"][0]["value"] for record in result.records}


def test_the_eleven_instructions_equal_those_of_the_paper():
    assert len(set(BRIEF_DESCRIPTION)) == 11
    assert BRIEF_DESCRIPTION[0] == "Describe the image concisely."
    assert BRIEF_DESCRIPTION[-1] == "Create a compact narrative representing the image presented."


def test_a_choice_depends_only_on_seed_and_record_and_is_uniform():
    picks = [choose(range(11), seed=0, record_id=str(i), purpose="p") for i in range(11_000)]
    assert picks == [choose(range(11), seed=0, record_id=str(i), purpose="p") for i in range(11_000)]
    assert all(850 < number < 1150 for number in Counter(picks).values())
    assert picks[:100] != [choose(range(11), seed=1, record_id=str(i), purpose="p") for i in range(100)]
    # The same bytes on every machine and in every version: training data depends on it.
    assert (
        picks[:8]
        == [choose(range(11), seed=0, record_id=str(i), purpose="p") for i in range(8)]
        == [0, 10, 7, 7, 3, 9, 9, 6]
    )


def coco(order=("images", "annotations")):
    parts = {
        "images": [{"id": 9, "file_name": "000000000009.jpg"}, {"id": 25, "file_name": "000000000025.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 25, "caption": "A giraffe. "},
            {"id": 2, "image_id": 9, "caption": " \n"},
            {"id": 3, "image_id": 77, "caption": "Nobody knows this image"},
            {"id": 4, "image_id": 9, "caption": "Broccoli"},
        ],
    }
    return {"info": {"year": 2017}, **{name: parts[name] for name in order}, "licenses": []}


def test_coco_annotations_are_paired_with_their_images(captions, tmp_path, write_json):
    result = captions(write_json(tmp_path / "captions_train2017.json", coco()), "coco")
    assert [(r["id"], r["image"], r["conversations"][1]["value"]) for r in result.records] == [
        ("coco_1", "coco/train2017/000000000025.jpg", "A giraffe."),
        ("coco_4", "coco/train2017/000000000009.jpg", "Broccoli"),
    ]
    assert result.reasons == [("element 1", "no_caption"), ("element 2", "no_image")]
    for question in questions(result).values():
        assert question.replace("<image>", "").strip() in BRIEF_DESCRIPTION
        assert question.startswith("<image>\n") or question.endswith("\n<image>")


def test_questions_do_not_depend_on_the_order_of_the_file_and_its_keys(captions, tmp_path, write_json):
    first = captions(write_json(tmp_path / "a.json", coco()), "coco")
    turned = coco(order=("annotations", "images"))
    turned["annotations"].reverse()
    second = captions(write_json(tmp_path / "b.json", turned), "coco", out=tmp_path / "other")
    assert questions(first) == questions(second)
    assert [r["id"] for r in second.records] == ["coco_4", "coco_1"]


def test_rows_with_urls_are_named_by_their_number_and_rows_with_paths_by_the_path(captions, tmp_path):
    source = tmp_path / "cc3m.tsv"
    source.write_bytes(
        b"\xef\xbb\xbfa dog\thttp://x.org/1.jpg\r\n"
        b'says "hi"\tfolder/2.jpg\n'
        b"no image\n"
        b"\thttp://x.org/4.jpg\n"
        b"caf\xe9\thttp://x.org/5.jpg\n"
        b"up\t../6.jpg\n"
        b"a cat \thttps://x.org/7.jpg"
    )
    result = captions(source, "tsv", prefix="cc3m/")
    assert [(r["id"], r["image"], r["conversations"][1]["value"]) for r in result.records] == [
        ("cc3m_0", "cc3m/00000/000000000.jpg", "a dog"),
        ("cc3m_1", "cc3m/folder/2.jpg", 'says "hi"'),
        ("cc3m_6", "cc3m/00000/000000006.jpg", "a cat"),
    ]
    assert result.reasons == [
        ("line 3", "wrong_columns"),
        ("line 4", "no_caption"),
        ("line 5", "not_utf8"),
        ("line 6", "image_outside_prefix"),
    ]
    assert "7 read = 3 written + 4 rejected" in result.out


def test_the_file_name_of_an_image_with_a_url_can_be_given(captions, tmp_path):
    source = tmp_path / "cc3m.tsv"
    source.write_text("a\thttp://x\n")
    named = captions(source, "tsv", "--image_name", "GCC_train_{row:09d}.jpg", prefix="cc3m")
    assert named.records[0]["image"] == "cc3m/GCC_train_000000000.jpg"


@pytest.mark.parametrize("name", ["x.jpg", "{row.__class__}", "{0}", "{row", "/a/{row}", "../{row}", "{row}{other}"])
def test_an_invalid_image_name_is_a_wrong_argument(captions, tmp_path, name):
    source = tmp_path / "cc3m.tsv"
    source.write_text("a\thttp://x\n")
    result = captions(source, "tsv", "--image_name", name)
    assert result.code == 2
    assert "--image_name is" in result.err
    assert captions(source, "jsonl", "--image_name", "{row}.jpg").code == 2


def test_lines_of_json_keep_their_ids(captions, tmp_path):
    lines = [
        {"id": "a", "image": "1.jpg", "caption": "one"},
        {"image": "2.jpg", "caption": "two"},
        {"id": 7, "image": "3.jpg", "caption": "an <image>"},
        {"id": 8, "image": "4.jpg", "text": "no caption"},
    ]
    source = tmp_path / "mine.jsonl"
    source.write_text("\n".join(json.dumps(line) for line in lines))
    result = captions(source, "jsonl", prefix="mine")
    assert [(r["id"], r["image"]) for r in result.records] == [("a", "mine/1.jpg"), ("mine_2", "mine/2.jpg")]
    assert result.reasons == [("line 3", "image_token_in_text"), ("line 4", "no_caption")]


@pytest.mark.parametrize("prefix", ["/data/coco", "../coco", "", "a/../../b"])
def test_a_prefix_outside_the_parent_folder_is_a_wrong_argument(captions, tmp_path, write_json, prefix):
    result = captions(write_json(tmp_path / "a.json", coco()), "coco", prefix=prefix)
    assert result.code == 2
    assert "--image_prefix is" in result.err


def test_another_seed_gives_other_questions_and_the_same_answers(captions, tmp_path):
    source = tmp_path / "many.jsonl"
    source.write_text("".join(json.dumps({"image": f"{i}.jpg", "caption": str(i)}) + "\n" for i in range(500)))
    one = captions(source, "jsonl", out=tmp_path / "one")
    two = captions(source, "jsonl", "--seed", 1, out=tmp_path / "two")
    assert questions(one) != questions(two)
    assert [r["conversations"][1] for r in one.records] == [r["conversations"][1] for r in two.records]
    assert len({q.replace("<image>", "").strip() for q in questions(one).values()}) == 11
    before = sum(q.startswith("<image>") for q in questions(one).values())
    assert 200 < before < 300


@with_real_excerpts
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_coco_captions_are_all_converted_and_their_images_exist(captions, split):
    source = SHARED / f"images/coco/annotations/captions_{split}.json"
    annotations = json.loads(source.read_text())["annotations"]
    result = captions(source, "coco", prefix=f"coco/{split}")
    assert [r["id"] for r in result.records] == [f"coco_{entry['id']}" for entry in annotations]
    assert [r["conversations"][1]["value"] for r in result.records] == [e["caption"].strip() for e in annotations]
    there = [r for r in result.records if (SHARED / "images" / r["image"]).is_file()]
    assert len({r["image"] for r in there}) >= 19


@with_real_excerpts
def test_real_cc3m_captions_are_all_converted(captions):
    source = SHARED / "raw/cc3m/validation_head.tsv"
    rows = [line.split("\t") for line in source.read_text().splitlines()]
    result = captions(source, "tsv", prefix="cc3m")
    assert [r["conversations"][1]["value"] for r in result.records] == [caption.strip() for caption, _ in rows]
    assert result.rejects == []
