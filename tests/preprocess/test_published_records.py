"""Records that other projects publish or document are read without configuring their format."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple

import pytest
from conftest import needs_shared, shared_folder

from preprocess.config import DatasetConfig, RecordFormat
from preprocess.conversation import Conversation, ConversationReader, TemplateTraits
from preprocess.record_formats import format_of, keys_by_format
from preprocess.rejects import Rejected


class Read(NamedTuple):
    record_format: RecordFormat
    conversations: list[Conversation]
    rejected: Counter[str]


def read_all(records: list[dict[str, Any]], **keys: Any) -> Read:
    dataset = DatasetConfig(system_prompt_style="vicuna_v1", **({"max_images": 2} | keys))
    traits = TemplateTraits(image_in_front=True, takes_system=True, keeps_empty_answers=False)
    reader = ConversationReader(dataset, traits)
    record_format = format_of(records[:20], keys_by_format(dataset))
    found = Read(record_format, [], Counter())
    for record in records:
        try:
            found.conversations.append(reader.read(record, record_format))
        except Rejected as rejected:
            found.rejected[rejected.reason.value] += 1
    return found


def published(name: str) -> list[dict[str, Any]]:
    text = (shared_folder("conversations") / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith(".jsonl") else json.loads(text)


@needs_shared("conversations")
def test_the_multimodal_demo_of_llamafactory_is_read() -> None:
    """hiyouga/LLaMA-Factory, data/mllm_demo.json"""
    found = read_all(published("llamafactory_mllm_demo.json"))
    assert (found.record_format, len(found.conversations), found.rejected) == ("messages", 6, {})
    first, second = found.conversations[:2]
    # With the templates of LLaVA, the only token of a question moves to the front.
    assert first.rounds == [
        ("<image>Who are they?", "They're Kane and Gretzka from Bayern Munich."),
        ("<image>\nWhat are they doing?", "They are celebrating on the soccer field."),
    ]
    assert (first.images, first.image_moved) == (("mllm_demo_data/1.jpg",) * 2, True)
    assert (second.rounds[0][0], second.images, second.image_token) == ("Who is he?", ("mllm_demo_data/2.jpg",), "")
    assert read_all(published("llamafactory_mllm_demo.json"), max_images=1).rejected == {"too_many_images": 2}


@needs_shared("conversations")
def test_the_tool_calls_of_llamafactory_are_rejected_and_other_records_read() -> None:
    """hiyouga/LLaMA-Factory, data/glaive_toolcall_en_demo.json"""
    records = published("glaive_toolcall_en_demo.json")
    calls = sum(any(turn["from"] == "function_call" for turn in record["conversations"]) for record in records)
    found = read_all(records)
    assert found.rejected == {"tool_turn": calls}
    assert len(found.conversations) == len(records) - calls > 0
    assert {conversation.unused_keys for conversation in found.conversations} == {("tools",)}


@needs_shared("conversations")
def test_the_examples_of_lmms_finetune_are_read() -> None:
    """zjysteven/lmms-finetune, example_data: llava's turns with a system text, several images and none."""
    found = read_all(published("multi_images.json"), max_images=4)
    assert (found.record_format, found.rejected) == ("sharegpt", {})
    assert [len(conversation.images) for conversation in found.conversations] == [2, 4]
    assert found.conversations[0].system == "Answer the following questions by considering all images."
    found = read_all(published("single_image_has_text_only.json"))
    assert (found.record_format, found.rejected) == ("sharegpt", {})
    assert [conversation.system is None for conversation in found.conversations] == [False, True, True, True]
    assert [len(conversation.images) for conversation in found.conversations] == [1, 1, 0, 0]


@needs_shared("conversations")
@pytest.mark.parametrize("token", ["<image>", "<IMG_CONTEXT>"])
def test_the_example_data_of_xtuner_is_read(token: str) -> None:
    """InternLM/xtuner, tests/resource/mllm_sft_single_image_example_data.jsonl: parts, and its own image tokens."""
    records = published("mllm_sft_single_image_example_data.jsonl")
    found = read_all(records, image_token=token)
    assert (found.record_format, len(found.conversations), found.rejected) == ("messages", len(records), {})
    assert all(len(conversation.images) == 1 for conversation in found.conversations)
    question = found.conversations[0].rounds[0][0]
    assert (
        question
        == {"<image>": "<IMG_CONTEXT>\n图片中的狗是什么颜色？", "<IMG_CONTEXT>": "图片中的狗是什么颜色？"}[token]
    )


def test_the_documented_examples_of_trl_are_read() -> None:
    """huggingface/trl, docs/source/dataset_formats.md: "Tool Calling" and "Vision datasets"."""
    sky = {"role": "user", "content": "What color is the sky?"}
    blue = {"role": "assistant", "content": "It is blue."}
    parts = [{"type": "image"}, {"type": "text", "text": "What color is the sky in the image?"}]
    lights = [
        {"role": "user", "content": "Turn on the living room lights."},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "control_light"}}]},
        {"role": "tool", "name": "control_light", "content": "The lights in the living room are now on."},
        {"role": "assistant", "content": "Done!"},
    ]
    found = read_all(
        [
            {"messages": [sky, blue]},
            {"images": ["sky.png"], "messages": [{"role": "user", "content": parts}, blue]},
            {"images": ["a.png", "b.png"], "messages": [{"role": "user", "content": [parts[0], *parts]}, blue]},
            {"messages": lights, "tools": []},
        ]
    )
    assert (found.record_format, found.rejected) == ("messages", {"tool_turn": 1})
    assert [conversation.images for conversation in found.conversations] == [(), ("sky.png",), ("a.png", "b.png")]
    assert [conversation.rounds[0][0] for conversation in found.conversations] == [
        "What color is the sky?",
        "What color is the sky in the image?",
        "<image><image>What color is the sky in the image?",
    ]


def test_the_documented_fine_tuning_example_of_openai_is_read() -> None:
    """platform.openai.com, "Vision fine-tuning": its images are urls, which are rejected when images are looked for."""
    url = "https://upload.wikimedia.org/wikipedia/commons/3/36/Danbo_Cheese.jpg"
    record = {
        "messages": [
            {"role": "system", "content": "You are an assistant that identifies uncommon cheeses."},
            {"role": "user", "content": "What is this cheese?"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]},
            {"role": "assistant", "content": "Danbo"},
        ]
    }
    assert read_all([record]).rejected == {"role_order": 1}
    del record["messages"][1]
    (conversation,) = read_all([record]).conversations
    assert (conversation.images, conversation.system) == (
        (url,),
        "You are an assistant that identifies uncommon cheeses.",
    )
