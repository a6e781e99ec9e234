from __future__ import annotations

from typing import Any

import pytest
from conftest import turn_pair

from preprocess.conversation import Conversation, read_conversation
from preprocess.record_keys import RecordKeys
from preprocess.records import parse_record
from preprocess.rejects import Reason, Rejected

KEYS = RecordKeys()
HUMAN = {"from": "human", "value": "Q"}
GPT = {"from": "gpt", "value": "A"}
SYSTEM = {"from": "system", "value": "S"}


def read(record: dict[str, Any], **options: Any) -> Conversation:
    return read_conversation(record, KEYS, **options)


def reason_of(record: dict[str, Any], **options: Any) -> Reason:
    with pytest.raises(Rejected) as rejected:
        read(record, **options)
    assert rejected.value.detail
    return rejected.value.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": "\xff"}', Reason.NOT_UTF8),
        (b"{'a': 1}", Reason.NOT_JSON),
        (b'{"a": 1', Reason.NOT_JSON),
        (b'{"a": NaN}', Reason.NOT_JSON),
        (b'{"a": "\\ud800"}', Reason.NOT_JSON),
        (b"[" * 100_000, Reason.NOT_JSON),
        (b"[1]", Reason.NOT_AN_OBJECT),
        (b"null", Reason.NOT_AN_OBJECT),
        (b'"text"', Reason.NOT_AN_OBJECT),
        (b"1.5", Reason.NOT_AN_OBJECT),
        (b"true", Reason.NOT_AN_OBJECT),
    ],
)
def test_a_line_that_is_not_a_json_object_is_rejected(line: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as rejected:
        parse_record(line)
    assert rejected.value.reason is reason


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, Reason.NO_TURNS),
        ({"conversations": []}, Reason.NO_TURNS),
        ({"conversations": None}, Reason.NO_TURNS),
        ({"conversations": "Q A"}, Reason.NO_TURNS),
        ({"conversations": [GPT]}, Reason.NO_TURNS),
        ({"conversations": [HUMAN]}, Reason.ODD_TURNS),
        ({"conversations": [HUMAN, GPT, HUMAN]}, Reason.ODD_TURNS),
        ({"conversations": [HUMAN, HUMAN]}, Reason.ROLE_ORDER),
        ({"conversations": [GPT, GPT, HUMAN]}, Reason.ROLE_ORDER),
        ({"conversations": [SYSTEM, HUMAN, GPT]}, Reason.NO_PLACE_FOR_SYSTEM),
        ({"conversations": [HUMAN, SYSTEM, GPT]}, Reason.SYSTEM_NOT_FIRST),
        ({"conversations": [{"from": "system", "value": 7}, HUMAN, GPT]}, Reason.BAD_TURN),
        ({"conversations": [{"value": "S"}, GPT]}, Reason.UNKNOWN_ROLE),
        ({"conversations": [{"from": ["human"], "value": "S"}, GPT]}, Reason.UNKNOWN_ROLE),
        ({"conversations": ["Q", "A"]}, Reason.BAD_TURN),
        ({"conversations": [HUMAN, {"from": "gpt", "value": 7}]}, Reason.BAD_TURN),
        ({"conversations": [HUMAN, {"from": "gpt"}]}, Reason.BAD_TURN),
        ({"conversations": [{"from": "human", "value": None}, GPT]}, Reason.BAD_TURN),
        ({"conversations": [HUMAN, {"from": "gpt", "value": None}]}, Reason.EMPTY_ANSWER),
        ({"conversations": turn_pair("Q", "")}, Reason.EMPTY_ANSWER),
        ({"conversations": turn_pair("Q", " \n\t")}, Reason.EMPTY_ANSWER),
        ({"conversations": turn_pair("", "A")}, Reason.EMPTY_QUESTION),
        ({"image": "a.png", "conversations": turn_pair("<image>", "A") + turn_pair("", "A")}, Reason.EMPTY_QUESTION),
        ({"image": "a.png", "conversations": turn_pair("Q", "A")}, Reason.IMAGE_WITHOUT_TOKEN),
        ({"conversations": turn_pair("<image>\nQ", "A")}, Reason.TOKEN_WITHOUT_IMAGE),
        ({"conversations": turn_pair("Q", "see <image>")}, Reason.TOKEN_WITHOUT_IMAGE),
        ({"image": ["a.png", "b.png"], "conversations": turn_pair("<image>", "A")}, Reason.TOO_MANY_IMAGES),
        ({"images": ["a.png", "b.png"], "conversations": turn_pair("<image>", "A")}, Reason.TOO_MANY_IMAGES),
        (
            {"image": "a.png", "images": ["a.png"], "conversations": turn_pair("<image>", "A")},
            Reason.IMAGES_NAMED_TWICE,
        ),
        ({"image": [["a.png"]], "conversations": turn_pair("<image>", "A")}, Reason.IMAGE_NOT_A_PATH),
        ({"images": [7], "conversations": turn_pair("<image>", "A")}, Reason.IMAGE_NOT_A_PATH),
        ({"image": "a.png", "conversations": turn_pair("<image>", "<image>")}, Reason.TOKEN_OUTSIDE_FIRST_TURN),
        (
            {"image": "a.png", "conversations": turn_pair("Q", "A") + turn_pair("<image>", "A")},
            Reason.TOKEN_OUTSIDE_FIRST_TURN,
        ),
        ({"image": 0, "conversations": turn_pair("Q", "A")}, Reason.IMAGE_NOT_A_PATH),
        ({"image": False, "conversations": turn_pair("Q", "A")}, Reason.IMAGE_NOT_A_PATH),
        ({"image": {}, "conversations": turn_pair("Q", "A")}, Reason.IMAGE_NOT_A_PATH),
        ({"image": 7, "conversations": turn_pair("<image>", "A")}, Reason.IMAGE_NOT_A_PATH),
        ({"image": {"path": "a"}, "conversations": turn_pair("<image>", "A")}, Reason.IMAGE_NOT_A_PATH),
    ],
)
def test_a_record_without_a_valid_conversation_is_rejected(record: dict[str, Any], reason: Reason) -> None:
    assert reason_of(record) is reason


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": [], "completion": []}, "'conversations' is not among the record's keys ('prompt', 'completion')"),
        ({}, "is not among the record's keys (none)"),
        ({str(i): i for i in range(9)}, "('0', '1', '2', '3', '4', …)"),
        (
            {"conversations": [{"role": "user", "content": "Q"}]},
            "turn 1 has no 'from' (dataset.role_key) among its keys ('role', 'content')",
        ),
        ({"conversations": [{"from": "bot", "value": "Q"}]}, "'from' 'bot', expected one of 'human', 'gpt', 'system'"),
    ],
)
def test_a_reject_names_the_keys_found_instead(record: dict[str, Any], words: str) -> None:
    with pytest.raises(Rejected) as rejected:
        read(record)
    assert words in rejected.value.detail


def test_plain_accepts_exactly_one_round_with_an_image() -> None:
    image = {"image": "a.png"}
    two = turn_pair("<image>", "A") + turn_pair("Q", "A")
    assert reason_of({**image, "conversations": two}, only_one_round=True) is Reason.NOT_ONE_ROUND
    assert reason_of({"conversations": turn_pair("Q", "A")}, only_one_round=True) is Reason.TEXT_ONLY_IN_PLAIN
    first_gpt = [GPT, *turn_pair("<image>", "A")]
    assert reason_of({**image, "conversations": first_gpt}, only_one_round=True) is Reason.ROLE_ORDER
    assert read({**image, "conversations": turn_pair("<image>", "A")}, only_one_round=True).rounds == [("", "A")]


@pytest.mark.parametrize("image", [None, "", [], [""], [None]])
def test_an_absent_null_or_empty_image_makes_a_text_only_record(image: object) -> None:
    found = read({"image": image, "conversations": turn_pair(" Q ", " A ")})
    assert found.images == ()
    assert found.rounds == [(" Q ", " A ")], "text-only turns are not stripped"


def test_a_list_of_one_image_is_read_as_that_image() -> None:
    for image in ({"image": ["a.png"]}, {"image": ["a.png", None]}, {"images": ["a.png"]}, {"images": "a.png"}):
        found = read({**image, "conversations": turn_pair("<image>", "A")})
        assert (found.images, found.image_token, found.unused_keys) == (("a.png",), "", ())


def test_several_images_are_placed_at_their_tokens() -> None:
    turns = [*turn_pair("<image>Q1", "A1"), *turn_pair("<image> or <image>?", "A2"), *turn_pair(" Q3", "A3")]
    for image_in_front in (True, False):
        found = read({"images": ["a", "b", "a"], "conversations": turns}, max_images=3, image_in_front=image_in_front)
        assert found.rounds == [("<image>Q1", "A1"), ("<image> or <image>?", "A2"), (" Q3", "A3")]
        assert (found.images, found.image_token, found.image_moved) == (("a", "b", "a"), "<image>", False)


def test_a_token_alone_in_its_question_moves_to_its_front_with_the_templates_of_llava() -> None:
    turns = [*turn_pair(" Q1 <image> end\n", "A1"), *turn_pair("\n<image>", "A2"), *turn_pair(" Q3", "A3")]
    record = {"image": ["a", "b"], "conversations": turns}
    found = read(record, max_images=2)
    assert found.rounds == [("<image>\nQ1  end", "A1"), ("<image>", "A2"), (" Q3", "A3")]
    assert found.image_moved
    found = read(record, max_images=2, image_in_front=False)
    assert found.rounds == [(" Q1 <image> end\n", "A1"), ("\n<image>", "A2"), (" Q3", "A3")]
    assert not found.image_moved


def test_one_image_is_placed_at_its_token_with_other_templates() -> None:
    record = {"image": "a", "conversations": [*turn_pair("Q1", "A1"), *turn_pair("Q2 <image>\n", "A2")]}
    found = read(record, image_in_front=False)
    assert found.rounds == [("Q1", "A1"), ("Q2 <image>\n", "A2")]
    assert (found.image_token, found.image_moved) == ("<image>", False)
    assert read({"conversations": turn_pair("Q", "A")}, image_in_front=False).image_token == ""


@pytest.mark.parametrize("image_in_front", [True, False])
@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (turn_pair("Q", "A"), Reason.IMAGE_WITHOUT_TOKEN),
        (turn_pair("<image>", "A"), Reason.IMAGE_WITHOUT_TOKEN),
        (turn_pair("<image><image><image>", "A"), Reason.TOKEN_WITHOUT_IMAGE),
        (turn_pair("<image>", "<image>"), Reason.TOKEN_OUTSIDE_HUMAN_TURN),
        ([{"from": "system", "value": "<image>"}, *turn_pair("<image>", "A")], Reason.TOKEN_OUTSIDE_HUMAN_TURN),
    ],
)
def test_each_of_several_images_needs_its_token(turns: list[Any], reason: Reason, image_in_front: bool) -> None:
    record = {"image": ["a", "b"], "conversations": turns}
    assert reason_of(record, max_images=2, takes_system=True, image_in_front=image_in_front) is reason


def test_repeated_tokens_of_one_image_are_rejected_where_they_are_not_merged() -> None:
    record = {"image": "a", "conversations": turn_pair("<image><image>", "A")}
    assert read(record).image_moved
    assert reason_of(record, image_in_front=False) is Reason.TOKEN_WITHOUT_IMAGE
    assert reason_of({"conversations": turn_pair("Q", "<image>")}, image_in_front=False) is Reason.TOKEN_WITHOUT_IMAGE


def test_a_thousand_images_are_read_or_rejected_by_max_images() -> None:
    record = {"image": ["a"] * 1000, "conversations": turn_pair("<image>" * 1000, "A")}
    assert len(read(record, max_images=1000).images) == 1000
    assert reason_of(record, max_images=999) is Reason.TOO_MANY_IMAGES


def test_plain_accepts_one_image_regardless_of_the_limit() -> None:
    record = {"image": ["a", "b"], "conversations": turn_pair("<image><image>", "A")}
    assert reason_of(record, only_one_round=True, max_images=2) is Reason.TOO_MANY_IMAGES


def test_the_system_text_is_that_of_the_first_turn() -> None:
    found = read({"conversations": [SYSTEM, *turn_pair("Q", "A")]}, takes_system=True)
    assert (found.system, found.rounds, found.first_turn_skipped) == ("S", [("Q", "A")], False)
    found = read({"conversations": [SYSTEM, GPT, *turn_pair("Q", "A")]}, takes_system=True)
    assert (found.system, found.rounds, found.first_turn_skipped) == ("S", [("Q", "A")], True)
    assert reason_of({"conversations": [SYSTEM, SYSTEM, HUMAN, GPT]}, takes_system=True) is Reason.SYSTEM_NOT_FIRST
    assert reason_of({"conversations": [SYSTEM]}, takes_system=True) is Reason.NO_TURNS


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_an_empty_system_turn_is_accepted_by_every_template_and_kept(text: str | None) -> None:
    for takes_system in (False, True):
        found = read({"conversations": [{"from": "system", "value": text}, HUMAN, GPT]}, takes_system=takes_system)
        assert (found.system, found.rounds) == (text, [("Q", "A")])


@pytest.mark.parametrize(
    ("value", "question", "moved"),
    [
        ("<image>\nQ", "Q", False),
        ("<image>", "", False),
        ("Q\n<image>", "Q", True),
        (" \n<image> Q\u00a0\n", "Q", True),
        ("a <image> b", "a  b", True),
        ("<image>Q<image>", "Q", True),
    ],
)
def test_the_image_token_is_removed_from_the_first_question(value: str, question: str, moved: bool) -> None:
    found = read({"image": "a.png", "conversations": turn_pair(value, "A")})
    assert (found.rounds, found.image_moved) == ([(question, "A")], moved)


def test_a_first_assistant_turn_is_skipped_and_reported() -> None:
    found = read({"conversations": [GPT, *turn_pair("Q", "A")]})
    assert (found.rounds, found.first_turn_skipped) == ([("Q", "A")], True)
    assert not read({"conversations": turn_pair("Q", "A")}).first_turn_skipped


def test_keys_of_a_record_can_be_configured() -> None:
    keys = RecordKeys(image="img", image_token="[IMG]", turns="turns", content="text", role="role")
    turns = [{"role": "human", "text": "[IMG]\nQ <image>"}, {"role": "gpt", "text": "A"}]
    found = read_conversation({"img": "a.png", "turns": turns, "conversations": [], "extra": {}}, keys)
    assert (found.rounds, found.images) == ([("Q <image>", "A")], ("a.png",))


def test_texts_are_repaired_on_request() -> None:
    record = {"conversations": turn_pair("cafÃ©", "e\u0301")}
    assert read(record).rounds == [("cafÃ©", "e\u0301")]
    assert read(record, repair_text=True).rounds == [("café", "é")]


IMAGE_ROUNDS = [
    *turn_pair("<image>\nQ1", ""),
    *turn_pair("Q2", "A2"),
    {"from": "human", "value": "Q3"},
    {"from": "gpt", "value": None},
    *turn_pair("", " \n"),
    *turn_pair("Q5", "A5"),
]


def test_rounds_without_an_answer_are_left_out_and_the_image_goes_to_the_next() -> None:
    found = read({"image": "a.png", "conversations": IMAGE_ROUNDS})
    assert (found.rounds, found.rounds_dropped, found.images) == ([("Q2", "A2"), ("Q5", "A5")], 3, ("a.png",))
    assert read({"conversations": turn_pair("Q", "A")}).rounds_dropped == 0


def test_images_in_place_of_a_round_that_is_left_out_go_to_the_next() -> None:
    turns = [*turn_pair("<image> Q1 <image>", ""), *turn_pair("Q2", "A2"), *turn_pair("<image>", "A3")]
    found = read({"image": ["a", "b", "c"], "conversations": turns}, max_images=3)
    assert found.rounds == [("<image>\n<image>\nQ2", "A2"), ("<image>", "A3")]
    assert (found.images, found.rounds_dropped) == (("a", "b", "c"), 1)


def test_images_in_place_of_a_last_round_without_an_answer_reject_the_record() -> None:
    record = {"image": "a", "conversations": [*turn_pair("Q1", "A1"), *turn_pair("<image>", "")]}
    assert reason_of(record, image_in_front=False) is Reason.EMPTY_ANSWER
    kept = read(record, image_in_front=False, empty_answer="keep")
    assert kept.rounds == [("Q1", "A1"), ("<image>", "")]


def test_rounds_without_an_answer_can_be_kept_or_reject_the_record() -> None:
    record = {"image": "a.png", "conversations": [*IMAGE_ROUNDS[:6], *turn_pair("Q4", " ")]}
    kept = read(record, empty_answer="keep")
    assert (kept.rounds, kept.rounds_dropped) == ([("Q1", ""), ("Q2", "A2"), ("Q3", ""), ("Q4", " ")], 0)
    assert reason_of(record, empty_answer="reject") is Reason.EMPTY_ANSWER


def test_a_kept_round_still_needs_a_question() -> None:
    record = {"conversations": [*turn_pair("Q1", ""), *turn_pair("", "A2")]}
    for empty_answer in ("drop_round", "keep"):
        assert reason_of(record, empty_answer=empty_answer) is Reason.EMPTY_QUESTION


def test_plain_rejects_an_empty_answer_unless_it_is_kept() -> None:
    record = {"image": "a.png", "conversations": turn_pair("<image>", "")}
    assert reason_of(record, only_one_round=True) is Reason.EMPTY_ANSWER
    assert read(record, only_one_round=True, empty_answer="keep").rounds == [("", "")]
