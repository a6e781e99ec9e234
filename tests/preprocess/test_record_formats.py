"""The keys and roles of each record format, and the detection of the format of a file."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from conftest import turn_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.config import DatasetConfig, RecordFormat
from preprocess.conversation import Conversation, ConversationReader, TemplateTraits
from preprocess.record_formats import format_of, keys_by_format
from preprocess.rejects import Reason, Rejected

LLAVA = {"id": 1, "image": "a.png", "conversations": turn_pair("<image>\nQ", "A")}
SHAREGPT = {"conversations": [{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}]}
MESSAGES = {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}
SYSTEM = {"system": "Be brief.", "conversations": turn_pair("Q", "A")}
FORMATS: tuple[RecordFormat, ...] = ("llava", "sharegpt", "messages")
DATASET = DatasetConfig(system_prompt_style="vicuna_v1", max_images=2)
TRAITS = TemplateTraits(image_in_front=False, takes_system=True, keeps_empty_answers=False)


def read(record: dict[str, Any], record_format: RecordFormat, **changes: Any) -> Conversation:
    dataset = DATASET.model_copy(update=changes)
    reader = ConversationReader(dataset, TRAITS)
    return reader.read(record, record_format)


def reason_of(record: dict[str, Any], record_format: RecordFormat, **changes: Any) -> Reason:
    with pytest.raises(Rejected) as rejected:
        read(record, record_format, **changes)
    return rejected.value.reason  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], "llava"),
        ([{}, {"text": "T"}], "llava"),
        ([LLAVA], "llava"),
        ([SHAREGPT], "sharegpt"),
        ([LLAVA, LLAVA, SHAREGPT], "sharegpt"),
        ([SYSTEM], "sharegpt"),
        ([{**SYSTEM, "system": " "}, {**SYSTEM, "system": None}], "llava"),
        ([{**LLAVA, "system_prompt": "Be brief."}], "sharegpt"),
        ([{"conversations": [{"from": "system", "value": "S"}, *turn_pair("Q", "A")]}], "llava"),
        ([MESSAGES], "messages"),
        ([{}, MESSAGES, LLAVA, MESSAGES], "messages"),
        ([LLAVA, MESSAGES, SHAREGPT], "sharegpt"),
        ([{**LLAVA, **MESSAGES}], "llava"),
        ([{"messages": "Q", "conversations": turn_pair("Q", "A")}], "llava"),
    ],
)
def test_the_format_is_detected_from_the_first_records(records: list[dict[str, Any]], expected: RecordFormat) -> None:
    assert format_of(records, keys_by_format(DATASET)) == expected


def test_configured_keys_that_are_those_of_messages_select_the_messages_format() -> None:
    named = {"multi_turn_key": "messages", "multi_turn_content_key": "content", "role_key": "role"}
    assert format_of([MESSAGES], keys_by_format(DATASET.model_copy(update=named))) == "messages"


def test_each_format_has_its_own_roles() -> None:
    assert read(SHAREGPT, "sharegpt").rounds == [("Q", "A")]
    assert read({"conversations": turn_pair("Q", "A")}, "sharegpt").rounds == [("Q", "A")]
    assert read(MESSAGES, "messages").rounds == [("Q", "A")]
    assert reason_of(SHAREGPT, "llava") is Reason.UNKNOWN_ROLE


def test_roles_can_be_configured() -> None:
    record = {"conversations": [{"from": "Kunde", "value": "Q"}, {"from": "bot", "value": "A"}]}
    roles = {"Kunde": "human", "bot": "gpt"}
    assert reason_of(record, "sharegpt") is Reason.UNKNOWN_ROLE
    assert read(record, "sharegpt", roles=roles).rounds == [("Q", "A")]
    assert format_of([record], keys_by_format(DATASET.model_copy(update={"roles": roles}))) == "sharegpt"
    swapped = {"conversations": [{"from": "gpt", "value": "Q"}, {"from": "human", "value": "A"}]}
    assert read(swapped, "sharegpt", roles={"gpt": "human", "human": "gpt"}).rounds == [("Q", "A")]


@pytest.mark.parametrize("record_format", ["llava", "sharegpt"])
@pytest.mark.parametrize("role", ["tool", "function_call", "observation", "function_response"])
def test_a_tool_turn_rejects_the_record(role: str, record_format: RecordFormat) -> None:
    record = {"conversations": [*turn_pair("Q", "A"), {"from": role, "value": "{}"}]}
    assert reason_of(record, record_format) is Reason.TOOL_TURN


def test_a_system_text_outside_the_turns_is_read_if_the_format_has_one() -> None:
    for name in ("system", "system_prompt"):
        record = {name: "Be brief.", "conversations": turn_pair("Q", "A")}
        found = read(record, "sharegpt")
        assert (found.system, found.rounds, found.unused_keys) == ("Be brief.", [("Q", "A")], ())
        assert read({**MESSAGES, name: "Be brief."}, "messages").system == "Be brief."
        found = read(record, "llava")
        assert (found.system, found.unused_keys) == (None, (name,))
    assert read({**SYSTEM, "system": ""}, "sharegpt").system is None
    assert reason_of({**SYSTEM, "system": ["S"]}, "sharegpt") is Reason.BAD_TURN


def test_two_system_texts_reject_the_record() -> None:
    turns = [{"from": "system", "value": "S"}, *turn_pair("Q", "A")]
    assert reason_of({"system": "S", "conversations": turns}, "sharegpt") is Reason.TWO_SYSTEM_TEXTS
    assert reason_of({**SYSTEM, "system_prompt": "S"}, "sharegpt") is Reason.TWO_SYSTEM_TEXTS
    assert read({"system": " ", "conversations": turns}, "sharegpt").system == "S"


def test_unused_keys_of_turns_are_counted_with_their_path() -> None:
    turns = [{"from": "human", "value": "Q", "weight": 0}, {"from": "gpt", "value": "A", "weight": 1, "loss": False}]
    found = read({"lang": "en", "conversations": turns}, "llava")
    assert found.unused_keys == ("lang", "conversations[].weight", "conversations[].loss")


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from(
        ["", " ", "Q", "<image>", "a.png", "human", "user", "gpt", "assistant", "system", "tool", "http://x"]
    ),
)
_PARTS = st.one_of(
    _VALUES,
    st.dictionaries(
        st.sampled_from(["type", "text", "image", "path", "url", "image_url", "index"]),
        st.one_of(_VALUES, st.sampled_from(["text", "image", "image_url", "video"]), st.just({"url": "a.png"})),
        max_size=3,
    ),
)
_CONTENTS = st.one_of(_VALUES, st.lists(_PARTS, max_size=3), st.just({"a": 1}))
_TURNS = st.one_of(
    _VALUES,
    st.dictionaries(
        st.sampled_from(["from", "value", "role", "content", "tool_calls", "weight"]), _CONTENTS, max_size=4
    ),
    st.builds(
        lambda role, text: {"from": role, "role": role, "value": text, "content": text},
        st.sampled_from(["human", "user", "gpt", "assistant", "system"]),
        _CONTENTS,
    ),
)
_RECORDS = st.dictionaries(
    st.sampled_from(["conversations", "messages", "image", "images", "system", "system_prompt", "id", "video", "x"]),
    st.one_of(_VALUES, st.lists(_TURNS, max_size=4), st.lists(_VALUES, max_size=3)),
    max_size=6,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(record=_RECORDS, only_one_round=st.booleans(), image_in_front=st.booleans(), takes_system=st.booleans())
def test_every_record_is_a_conversation_or_a_reject(
    record: dict[str, Any], only_one_round: bool, image_in_front: bool, takes_system: bool
) -> None:
    traits = TemplateTraits(
        only_one_round=only_one_round,
        image_in_front=image_in_front,
        takes_system=takes_system,
        keeps_empty_answers=False,
    )
    reader = ConversationReader(DATASET, traits)
    copy = orjson.dumps(record)
    assert format_of([record], keys_by_format(DATASET)) in FORMATS
    for record_format in FORMATS:
        try:
            found = reader.read(record, record_format)
        except Rejected:
            continue
        assert found.rounds
        assert len(found.images) <= DATASET.max_images
        tokens = sum(question.count("<image>") for question, _ in found.rounds)
        assert tokens == (len(found.images) if found.image_token else 0)
        assert not any("<image>" in answer for _, answer in found.rounds)
    assert orjson.dumps(record) == copy, "the record is left as it is"
