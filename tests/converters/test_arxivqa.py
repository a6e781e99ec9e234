import json

import pytest

from preprocess.converters.arxivqa_options import find_option, read_options
from preprocess.rejects import Rejected

OPTIONS = ["It increases.", "It decreases.", "It stays"]
LETTERED = [["A) ", "B) ", "C) "], ["A. ", "B. ", "C. "], ["A: ", "B:", "C:  "], ["(A) ", "(B) ", "(C) "], ["", "", ""]]


@pytest.mark.parametrize("letters", LETTERED)
def test_letters_before_options_are_removed(letters):
    assert read_options([a + b for a, b in zip(letters, OPTIONS, strict=True)]) == OPTIONS


@pytest.mark.parametrize(
    "written",
    [
        json.dumps(["A) It increases.", "B) It decreases.", "C) It stays"]),
        "['A) It increases.', \"B) It decreases.\", 'C) It stays']",
        "A) It increases.\nB) It decreases.\n\nC) It stays",
        str(["A. It increases.", "B. It decreases.", "C. It stays", ""]),
    ],
)
def test_options_in_one_string_are_split(written):
    assert read_options(written) == OPTIONS


def test_a_printed_list_is_parsed_and_never_executed():
    printed = [r"\( T/T_c \)", "it's", 'say "x"', "a\nb", "naïve \u2028 text", "__import__('os').abort()"]
    assert read_options(str(printed)) == printed
    assert read_options("[__import__('os').abort()]") == ["os"]


def test_words_that_begin_like_option_letters_are_kept():
    assert read_options(["A worm", "B cells", "C. elegans"]) == ["A worm", "B cells", "C. elegans"]
    assert read_options(["A) worm", "B) cells", "None of them"]) == ["worm", "cells", "None of them"]


@pytest.mark.parametrize(
    "label",
    [
        "B",
        "b",
        "B)",
        "B.",
        "(B)",
        "B:",
        "[B]",
        "['B']",
        '["B) It decreases."]',
        "B) It decreases.",
        "B. It decreases",
        "It decreases.",
        "it  DECREASES",
        "B It decreases.",
        "[It decreases.]",
        "B) it goes down",
    ],
)
def test_a_label_in_any_notation_finds_its_option(label):
    assert find_option(label, OPTIONS) == 1


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("D", "label_past_options"),
        ("[E]", "label_past_options"),
        ("D) None of the above", "label_past_options"),
        ("A, B", "label_not_an_option"),
        ("[A, B]", "label_not_an_option"),
        ("A) It decreases.", "label_not_an_option"),
        ("A) B", "label_not_an_option"),
        ("A trend", "label_not_an_option"),
        ("42", "label_not_an_option"),
        ("Figure 3", "label_not_an_option"),
    ],
)
def test_a_label_that_is_not_an_option_is_rejected(label, reason):
    with pytest.raises(Rejected) as rejected:
        find_option(label, OPTIONS)
    assert rejected.value.reason.value == reason


def test_an_article_is_not_read_as_a_letter():
    assert find_option("A decrease in energy", ["growth", "A decrease in energy"]) == 1


def record(**changes):
    return {
        "id": "cond-mat-2862",
        "image": "images/0805.4509_1.jpg",
        "options": ["A) up", "B) down", "C) flat", "D) -"],
        "question": "What is the trend?",
        "label": "B",
        "rationale": "The curve falls.",
        **changes,
    }


@pytest.fixture
def convert(preprocess, tmp_path):
    def run(*records, name="arxivqa.jsonl"):
        source = tmp_path / name
        source.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
        out = tmp_path / "out"
        return preprocess("arxivqa", "--input_file", source, "--output_jsonl_dir", out, into=out)

    return run


def test_a_question_becomes_a_conversation_answered_with_the_letter(convert):
    (converted,) = convert(record()).records
    assert converted == {
        "id": "arxivqa_cond-mat-2862",
        "image": "ArxivQA/images/0805.4509_1.jpg",
        "conversations": [
            {
                "from": "human",
                "value": "<image>\nWhat is the trend?\nA. up\nB. down\nC. flat\nD. -\n"
                "Answer with the option's letter from the given choices directly.",
            },
            {"from": "gpt", "value": "B"},
        ],
    }


def test_the_rationale_is_the_answer_without_a_label_and_a_record_without_both_is_rejected(convert):
    result = convert(
        record(label=""),
        record(label=None, options=[]),
        record(label="", rationale=" "),
        record(label="[]", rationale=None),
    )
    assert [r["conversations"][1]["value"] for r in result.records] == ["The curve falls.", "The curve falls."]
    assert result.records[0]["conversations"][0]["value"].endswith("\nC. flat\nD. -")
    assert result.records[1]["conversations"][0]["value"] == "<image>\nWhat is the trend?"
    assert result.reasons == [("line 3", "no_answer"), ("line 4", "no_answer")]


def test_a_label_beyond_the_options_is_rejected_even_with_a_rationale(convert):
    result = convert(record(label="E"), record(options=[]), record(options=None), record(label=["A", "B"]))
    assert result.records == []
    assert [reason for _, reason in result.reasons] == [
        "label_past_options",
        "no_options",
        "no_options",
        "label_not_an_option",
    ]


def test_broken_lines_are_rejected_with_their_number_and_blank_ones_are_not(convert):
    result = convert("\ufeff", record(), "\n  \n", "{oops\n", "[1]\n", record(image="/etc/x.jpg"), record(image=None))
    assert len(result.records) == 1
    assert result.reasons == [
        ("line 4", "not_json"),
        ("line 5", "not_an_object"),
        ("line 6", "image_outside_prefix"),
        ("line 7", "no_image"),
    ]


def test_the_output_never_replaces_the_input(preprocess, tmp_path):
    source = tmp_path / "arxivqa.jsonl"
    source.write_text(json.dumps(record()) + "\n")
    for more in ([], ["--overwrite"]):
        result = preprocess("arxivqa", "--input_file", source, "--output_jsonl_dir", tmp_path, *more, into=tmp_path)
        assert result.code == 2
        assert "is both an input and the output" in result.err
    assert json.loads(source.read_text()) == record()
