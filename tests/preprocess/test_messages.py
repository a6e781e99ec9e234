"""Messages whose content is a list of parts."""

from __future__ import annotations

from typing import Any

import pytest

from preprocess.config import DatasetConfig
from preprocess.conversation import Conversation, ConversationReader, TemplateTraits
from preprocess.rejects import Reason, Rejected

ANSWER = {"role": "assistant", "content": "A"}
TRAITS = TemplateTraits(image_in_front=False, takes_system=True, keeps_empty_answers=False)


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image(path: str) -> dict[str, Any]:
    return {"type": "image", "image": path}


def user(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}, ANSWER]}


def read(record: dict[str, Any], image_token: str = "<image>") -> Conversation:
    dataset = DatasetConfig(system_prompt_style="vicuna_v1", max_images=3, image_token=image_token)
    reader = ConversationReader(dataset, TRAITS)
    return reader.read(record, "messages")


def reason_of(record: dict[str, Any]) -> Reason:
    with pytest.raises(Rejected) as rejected:
        read(record)
    assert rejected.value.detail
    return rejected.value.reason  # type: ignore[return-value]


def test_image_parts_become_tokens_in_place() -> None:
    record = {
        "messages": [
            {"role": "system", "content": [text("S")]},
            {"role": "user", "content": [text("first "), image("a.png"), text(" then "), image("b.png"), text("?")]},
            {"role": "assistant", "content": [text("A"), text("1")]},
            {"role": "user", "content": [image("a.png")]},
            {"role": "assistant", "content": "A2"},
        ]
    }
    found = read(record)
    assert found.rounds == [("first <image> then <image>?", "A1"), ("<image>", "A2")]
    assert (found.images, found.system, found.unused_keys) == (("a.png", "b.png", "a.png"), "S", ())


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a.png"},
        {"type": "image", "path": "a.png"},
        {"type": "image", "url": "a.png", "image": None},
        {"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}},
        {"type": "image_url", "image_url": "a.png"},
    ],
)
def test_an_image_part_can_name_its_path_in_each_published_form(part: dict[str, Any]) -> None:
    assert read(user(part, text("Q"))).images == ("a.png",)


def test_the_record_may_list_the_images_of_the_parts() -> None:
    """As in TRL's documentation of vision datasets (huggingface/trl, docs/source/dataset_formats.md)."""
    record = user({"type": "image"}, text("What color is the sky in the image?"))
    found = read({**record, "images": ["sky.png"]})
    assert (found.rounds, found.images) == ([("<image>What color is the sky in the image?", "A")], ("sky.png",))
    assert reason_of(record) is Reason.TOKEN_WITHOUT_IMAGE
    assert reason_of({**record, "images": ["sky.png", "sea.png"]}) is Reason.IMAGE_WITHOUT_TOKEN


def test_parts_may_have_the_index_of_their_image() -> None:
    """As in HuggingFaceH4/llava-instruct-mix-vsft, TRL's example data."""

    def indexed(*indices: int, images: tuple[str, ...] = ("a.png", "b.png")) -> dict[str, Any]:
        parts = [{"type": "image", "text": None, "index": index} for index in indices]
        return {"images": list(images), **user(*parts, {"type": "text", "text": "Q", "index": None})}

    found = read(indexed(1, 0))
    assert (found.images, found.rounds, found.unused_keys) == (("b.png", "a.png"), [("<image><image>Q", "A")], ())
    assert read(indexed(0, 0, images=("a.png",))).images == ("a.png", "a.png")
    assert reason_of(indexed(0, 2)) is Reason.TOKEN_WITHOUT_IMAGE
    assert reason_of(indexed(0)) is Reason.IMAGE_WITHOUT_TOKEN


def test_texts_of_messages_may_contain_image_tokens() -> None:
    record = {"images": ["a", "b"], "messages": [{"role": "user", "content": "<image>Q<image>"}, ANSWER]}
    found = read(record)
    assert (found.rounds, found.images, found.unused_keys) == ([("<image>Q<image>", "A")], ("a", "b"), ())


def test_image_tokens_in_the_texts_of_parts_are_the_positions_of_the_images() -> None:
    """As in XTuner's example data, whose token is `<IMG_CONTEXT>`."""
    part = {"type": "image_url", "image_url": {"url": "dog.jpg", "image_wh": [375, 500]}}
    found = read(user(part, text("<IMG_CONTEXT>\nWhat colour?")), "<IMG_CONTEXT>")
    assert (found.rounds, found.images) == ([("<IMG_CONTEXT>\nWhat colour?", "A")], ("dog.jpg",))
    assert reason_of(user(image("a.png"), text("<image> and <image>"))) is Reason.TOKEN_WITHOUT_IMAGE


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (user({"type": "video", "video": "a.mp4"}), Reason.UNSUPPORTED_MEDIA),
        (user({"type": "input_audio", "input_audio": {"data": "…"}}), Reason.UNSUPPORTED_MEDIA),
        (user({"type": "video_url", "video_url": {"url": "a.mp4"}}), Reason.UNSUPPORTED_MEDIA),
        (user({"type": "refusal", "refusal": "no"}), Reason.BAD_TURN),
        (user({"text": "Q"}), Reason.BAD_TURN),
        (user("Q"), Reason.BAD_TURN),
        (user({"type": ["text"]}), Reason.BAD_TURN),
        (user({"type": "text", "text": None}), Reason.BAD_TURN),
        (user(), Reason.EMPTY_QUESTION),
        (user({"type": "image", "image": {"bytes": "…"}}, text("Q")), Reason.IMAGE_NOT_A_PATH),
        (user({"type": "image", "image": 7}, text("Q")), Reason.IMAGE_NOT_A_PATH),
        (user(image("a.png"), {"type": "image"}), Reason.IMAGE_NOT_A_PATH),
        ({**user(image("a.png")), "images": ["a.png"]}, Reason.IMAGES_NAMED_TWICE),
        ({**user(image("a.png")), "image": "a.png"}, Reason.IMAGES_NAMED_TWICE),
        (
            {"messages": [{"role": "user", "content": "Q"}, {**ANSWER, "content": [image("a")]}]},
            Reason.TOKEN_OUTSIDE_HUMAN_TURN,
        ),
        (
            {"messages": [{"role": "system", "content": [image("a")]}, *user(text("Q"))["messages"]]},
            Reason.TOKEN_OUTSIDE_HUMAN_TURN,
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": "Q"},
                    {"role": "assistant", "tool_calls": [{"type": "function"}]},
                ]
            },
            Reason.TOOL_TURN,
        ),
        ({"messages": [*user(text("Q"))["messages"], {"role": "tool", "content": "{}"}]}, Reason.TOOL_TURN),
        ({"messages": "Q"}, Reason.NO_TURNS),
        ({"messages": ["Q"]}, Reason.BAD_TURN),
        ({"messages": [{"role": "user", "content": 7}, ANSWER]}, Reason.BAD_TURN),
    ],
)
def test_an_invalid_message_is_rejected(record: dict[str, Any], reason: Reason) -> None:
    assert reason_of(record) is reason


def test_an_empty_list_of_tool_calls_is_ignored() -> None:
    record = {"messages": [{"role": "user", "content": "Q"}, {**ANSWER, "tool_calls": []}]}
    assert read(record).rounds == [("Q", "A")]
