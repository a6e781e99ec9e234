import json

import pytest


def entry(number, *, correct=0, answers=("crust", "mantle", "outer core", "inner core"), letters=False, image="2185"):
    return {
        "abcLabel": letters,
        "answerTexts": list(answers),
        "correctAnswer": correct,
        "questionId": f"{image}.png-{number}",
    }


@pytest.fixture
def questions(tmp_path, write_json):
    folder = tmp_path / "ai2d" / "questions"

    def write(image, entries):
        return write_json(folder / f"{image}.png.json", {"imageName": f"{image}.png", "questions": entries})

    write.folder = folder
    return write


def run(preprocess, questions, out):
    return preprocess("ai2d", "--question_dir", questions.folder, "--output_jsonl_dir", out, into=out)


def test_a_question_becomes_a_conversation_answered_with_the_letter(preprocess, questions, tmp_path):
    questions("2185", {"Which is the outermost layer?": entry(0, correct=2)})
    result = run(preprocess, questions, tmp_path / "out")
    assert result.code == 0
    assert result.records == [
        {
            "id": "ai2d_2185.png-0",
            "image": "ai2d/images/2185.png",
            "conversations": [
                {
                    "from": "human",
                    "value": "<image>\nWhich is the outermost layer?\nA. crust\nB. mantle\nC. outer core\n"
                    "D. inner core\nAnswer with the option's letter from the given choices directly.",
                },
                {"from": "gpt", "value": "C"},
            ],
        }
    ]
    assert "1 read = 1 written + 0 rejected" in result.out


def test_ids_do_not_depend_on_the_order_of_keys_in_the_file(preprocess, questions, tmp_path):
    questions("2185", {"z?": entry(1), "a?": entry(0), "m?": entry(2)})
    questions("10", {"q?": entry(0, image="10")})
    result = run(preprocess, questions, tmp_path / "out")
    assert [record["id"] for record in result.records] == [
        "ai2d_10.png-0",
        "ai2d_2185.png-1",
        "ai2d_2185.png-0",
        "ai2d_2185.png-2",
    ]


def test_an_image_without_questions_is_not_a_reject(preprocess, questions, tmp_path):
    questions("1", {})
    questions("2", {"q?": entry(0)})
    result = run(preprocess, questions, tmp_path / "out")
    assert "1 read = 1 written + 0 rejected" in result.out
    assert not list((tmp_path / "out").glob("*.rejects.jsonl"))


def test_letters_of_the_diagram_can_be_options(preprocess, questions, tmp_path):
    questions("1", {"Which letter is the root?": entry(0, correct=1, answers=("D", "A", "B"), letters=True)})
    (record,) = run(preprocess, questions, tmp_path / "out").records
    assert "\nA. D\nB. A\nC. B\n" in record["conversations"][0]["value"]
    assert record["conversations"][1]["value"] == "B"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (entry(0, correct=4), "label_past_options"),
        (entry(0, correct=-1), "label_past_options"),
        (entry(0, correct=None), "no_answer"),
        (entry(0, correct=True), "no_answer"),
        (entry(0, answers=()), "no_options"),
        (entry(0, answers=("a", " ")), "no_options"),
        (entry(0, answers=("a", "an <image>")), "image_token_in_text"),
        ({"answerTexts": ["a"], "correctAnswer": 0}, "no_id"),
        ([], "not_an_object"),
    ],
)
def test_a_question_that_cannot_be_answered_is_rejected_with_its_place(preprocess, questions, tmp_path, wrong, reason):
    questions("1", {"good?": entry(0), "bad?": wrong})
    result = run(preprocess, questions, tmp_path / "out")
    assert result.code == 0
    assert len(result.records) == 1
    assert [(reject["file"], reject["position"], reject["reason"]) for reject in result.rejects] == [
        ("1.png.json", "question 1", reason)
    ]


def test_an_image_outside_its_folder_is_rejected(preprocess, questions, tmp_path, write_json):
    write_json(questions.folder / "x.png.json", {"imageName": "../../x.png", "questions": {"q?": entry(0)}})
    result = run(preprocess, questions, tmp_path / "out")
    assert result.reasons == [("question 0", "image_outside_prefix")]


def test_a_broken_file_is_one_reject_and_the_others_are_converted(preprocess, questions, tmp_path):
    questions("2", {"q?": entry(0)})
    (questions.folder / "1.png.json").write_text("{")
    (questions.folder / "3.png.json").write_text(json.dumps({"imageName": "3.png"}))
    result = run(preprocess, questions, tmp_path / "out")
    assert len(result.records) == 1
    assert [(r["file"], r["reason"]) for r in result.rejects] == [
        ("1.png.json", "not_json"),
        ("3.png.json", "not_an_object"),
    ]
    assert "3 read = 1 written + 2 rejected" in result.out


def test_the_parent_folder_is_refused_with_the_right_one(preprocess, questions, tmp_path, write_json):
    questions("2", {"q?": entry(0)})
    root = questions.folder.parent
    write_json(root / "categories.json", {"2.png": "earth"})
    result = preprocess("ai2d", "--question_dir", root, "--output_jsonl_dir", tmp_path / "out", into=tmp_path / "out")
    assert result.code == 2
    assert result.err.strip().endswith(f"did you mean {questions.folder}?")
    assert result.err.count("\n") == 1
