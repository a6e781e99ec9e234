from __future__ import annotations

from typing import Any

import pytest
from conftest import turn_pair

from preprocess.conversation import read_conversation
from preprocess.record_keys import OTHER_KEYS, RecordKeys, UnusedKeys
from preprocess.rejects import Reason, Rejected

KEYS = RecordKeys()
TURNS = {"conversations": turn_pair("Q", "A")}


@pytest.mark.parametrize(
    ("extra", "keys"),
    [
        ({"video": "a.mp4"}, KEYS),
        ({"videos": ["a.mp4"]}, KEYS),
        ({"audio": {"path": "a.wav"}}, KEYS),
        ({"audios": [None, "a.wav"]}, KEYS),
        ({"image": "x.jpg"}, RecordKeys(image="images")),
    ],
)
def test_unsupported_media_reject_the_record(extra: dict[str, Any], keys: RecordKeys) -> None:
    for _ in range(2):  # the second time, its set of keys is cached
        with pytest.raises(Rejected) as rejected:
            read_conversation({**TURNS, **extra}, keys)
        assert rejected.value.reason is Reason.UNSUPPORTED_MEDIA
        assert repr(next(key for key in extra if key != keys.image)) in rejected.value.detail


@pytest.mark.parametrize("value", [None, "", [], [None], {}])
def test_a_media_key_without_media_is_counted_like_any_other(value: object) -> None:
    assert read_conversation({**TURNS, "video": value}, KEYS).unused_keys == ("video",)


def test_unused_keys_are_named() -> None:
    record = {"id": 1, "image": None, **TURNS, "data_source": "x", "system": "S", "system_prompt": "S"}
    assert read_conversation(record, KEYS).unused_keys == ("data_source", "system", "system_prompt")
    assert read_conversation({"id": 1, "image": "", **TURNS}, KEYS).unused_keys == ()
    renamed = RecordKeys(image="img", turns="turns")
    assert renamed.unused({"img": 0, "turns": 0, "conversations": 0}) == ("conversations",)


def test_unused_keys_are_counted_per_record_regardless_of_batches() -> None:
    names = [("a", "b"), (), ("b",), ("a", "b"), ("c",)]
    at_once, one_by_one = UnusedKeys(), UnusedKeys()
    at_once.add(names)
    for some in names:
        one_by_one.add([some])
    assert at_once.ranked() == one_by_one.ranked() == {"b": 3, "a": 2, "c": 1}
    assert list(at_once.ranked()) == ["b", "a", "c"]


def test_the_number_and_length_of_names_are_limited() -> None:
    counted = UnusedKeys()
    keys = RecordKeys()
    for record in range(3000):
        counted.add([keys.unused({f"{record}-{'x' * 1000}": 1, "shared": 1})])
    found = counted.ranked()
    assert len(found) == 101
    assert (found["shared"], found[OTHER_KEYS]) == (3000, 2901)
    assert max(map(len, found)) <= 81
    many = keys.unused({str(key): 1 for key in range(1000)})
    assert (len(many), many[-1]) == (101, OTHER_KEYS)
