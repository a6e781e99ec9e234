"""The chat template that is saved with a model renders conversations as the rows hold them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, QUICKSTART, needs_shared, shared_folder

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from jinja2 import TemplateError  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig  # noqa: E402

from preprocess.config import DatasetConfig  # noqa: E402
from preprocess.conversation import Conversation, read_conversation  # noqa: E402
from preprocess.record_keys import RecordKeys  # noqa: E402
from preprocess.segments import Mark, Segment, Special, Text  # noqa: E402
from preprocess.templates import TEMPLATES, LlavaRenderer  # noqa: E402
from preprocess.templates.chat import ChatRenderer  # noqa: E402
from preprocess.templates.named import CHAT_TEMPLATES  # noqa: E402
from preprocess.tokenize.tokenizer import AddedToken  # noqa: E402
from trainer.chat_prompt import RowTemplate, write_chat_template  # noqa: E402
from trainer.processor import make_image_processor, make_processor  # noqa: E402
from trainer.prompt_tokenizer import image_token_id, load_prompt_tokenizer  # noqa: E402

LLAVA = tuple(style for style in TEMPLATES if style != "plain")


class AnyTokenizer:
    """Has every special token that a template asks for; an id is an index into `spellings`."""

    def __init__(self) -> None:
        self.spellings: list[str] = []

    def require_token(self, spelling: str, needed_by: str) -> AddedToken:
        self.spellings.append(spelling)
        return AddedToken(len(self.spellings) - 1, lstrip=False, rstrip=False, starts_text=False)


def prompt_of(segments: list[Segment], spellings: list[str]) -> str:
    marks = {Mark.BOS: "<s>", Mark.EOS: "</s>", Mark.IMAGE: "<image>", Mark.IMAGE_TOKEN: "<image>"}
    return "".join(
        part.text if isinstance(part, Text) else spellings[part.id] if isinstance(part, Special) else marks[part]
        for found in segments
        for part in getattr(found, "segments", [found])  # those of `ConstantSegments`
    )


def messages_of(conversation: Conversation) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if conversation.system is not None:
        messages.append({"role": "system", "content": [{"type": "text", "text": conversation.system}]})
    for number, (question, answer) in enumerate(conversation.rounds):
        parts = [{"type": "text", "text": question}]
        if conversation.images and not conversation.image_token and number == 0:
            parts.insert(0, {"type": "image"})
        messages.append({"role": "user", "content": parts})
        messages.append({"role": "assistant", "content": answer})
    return messages


def rendered(template: str | None, messages: list[dict[str, Any]], **options: Any) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    assert template is not None
    [[text], _] = render_jinja_template([messages], chat_template=template, **options)
    return str(text)


def check(records: list[dict[str, Any]], style: str, system: str | None = None) -> int:
    """Compare all records with their rows; return how many there were."""
    tokenizer = AnyTokenizer()
    renderer: Any
    if style in CHAT_TEMPLATES:
        renderer = ChatRenderer(CHAT_TEMPLATES[style], tokenizer, system, "test")  # type: ignore[arg-type]
    else:
        renderer = LlavaRenderer(TEMPLATES[style], system=system)
    template = write_chat_template(RowTemplate(style, system), bos="<s>", eos="</s>")
    for record in records:
        images = sum(turn["value"].count("<image>") for turn in record["conversations"])
        traits = renderer.traits
        conversation = read_conversation(
            record if traits.image_in_front else record | {"image": ["a.png"] * images},
            RecordKeys(),
            image_in_front=traits.image_in_front,
            takes_system=traits.takes_system,
            max_images=9,
            empty_answer="keep" if traits.keeps_empty_answers else "drop_round",
        )
        expected = prompt_of(renderer.render(conversation), tokenizer.spellings)
        if traits.image_in_front:
            expected = expected.removeprefix("<s>")
        found = rendered(template, messages_of(conversation))
        assert found == expected, record["id"]
        # What the model is asked for the last answer is how the row begins.
        asked = rendered(template, messages_of(conversation)[:-1], add_generation_prompt=True)
        assert expected.startswith(asked), record["id"]
    return len(records)


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["record"] for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("style", LLAVA)
def test_conversations_of_the_llava_goldens_are_rendered_as_in_rows(style: str) -> None:
    records = records_of(CHECKOUT / "tests" / "golden" / "embedded" / f"{style}.jsonl")
    assert check(records, style) > 50
    if TEMPLATES[style].takes_system:
        check(records, style, "Answer “briefly”.\n{% raw %} 🦉")


@needs_shared("golden/modern")
@pytest.mark.parametrize("style", CHAT_TEMPLATES)
def test_conversations_of_the_modern_goldens_are_rendered_as_in_rows(style: str) -> None:
    paths = sorted(shared_folder("golden/modern").glob(f"{style}.jsonl"))
    paths += sorted(shared_folder("golden/modern").glob(f"{style}.[a-z]*.jsonl"))
    assert len(paths) >= 3
    assert sum(check(records_of(path), style) for path in paths) > 300


@pytest.mark.parametrize("style", CHAT_TEMPLATES)
def test_conversations_without_goldens_are_rendered_as_in_rows(style: str) -> None:
    turns = [
        {"from": "human", "value": " <image>\nWhat is <image> this? "},
        {"from": "gpt", "value": " A bus.\n"},
        {"from": "human", "value": "Sure?"},
        {"from": "gpt", "value": ""},
    ]
    records = [{"id": str(length), "conversations": turns[:length]} for length in (2, 4)]
    if CHAT_TEMPLATES[style].takes_system:
        system = {"from": "system", "value": "  Be\nbrief. "}
        records += [{"id": f"system {n}", "conversations": [system, *record["conversations"]]} for n, record in
                    enumerate(records)]  # fmt: skip
    assert check(records, style) == len(records)
    if CHAT_TEMPLATES[style].takes_system:
        check(records, style, " Another\ttext “é” ")


def test_plain_and_templates_of_the_tokenizer_are_not_written() -> None:
    assert write_chat_template(RowTemplate("plain"), bos="<s>", eos="</s>") is None
    assert write_chat_template(RowTemplate("chat_template"), bos="<s>", eos="</s>") is None


def test_an_end_token_replaces_eos() -> None:
    template = write_chat_template(RowTemplate("vicuna_v1", end_token="<|endoftext|>"), bos="<s>", eos="</s>")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert rendered(template, messages).endswith("USER: Hi ASSISTANT: Ho<|endoftext|>")


@pytest.mark.parametrize(
    ("style", "messages", "message"),
    [
        ("gemma", [{"role": "system", "content": "x"}], "does not support system messages"),
        ("mistral_instruct", [{"role": "system", "content": "x"}], "does not support system messages"),
        ("chatml", [{"role": "assistant", "content": "x"}], "message of role assistant, expected user and assistant"),
        ("vicuna_v1", [{"role": "user", "content": "x"}] * 2, "message of role user, expected user and assistant"),
        ("llama_3", [{"role": "user", "content": [{"type": "video"}]}], "part of type video, expected image or text"),
    ],
)
def test_what_rows_cannot_hold_is_an_error(style: str, messages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        rendered(write_chat_template(RowTemplate(style), bos="<s>", eos="</s>"), messages)


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_sentencepiece"])
def test_a_saved_processor_makes_ids_and_pixels_of_messages(name: str, tmp_path: Path) -> None:
    tokenizer = load_prompt_tokenizer(str(QUICKSTART / name), "test")
    images = make_image_processor({}, image_size=28, pad=False)
    template = RowTemplate(DatasetConfig(system_prompt_style="vicuna_v1").system_prompt_style)
    make_processor(tokenizer, images, patch_size=14, template=template).save_pretrained(tmp_path)
    config: dict[str, Any] = {
        "vision_config": CLIPVisionConfig(image_size=28, patch_size=14),
        "image_token_index": image_token_id(tokenizer),
    }
    LlavaConfig(text_config=LlamaConfig(), **config).save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    picture = {"type": "image", "image": Image.new("RGB", (30, 20))}
    messages = [{"role": "user", "content": [picture, {"type": "text", "text": "What is this?"}]}]
    made = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    system = TEMPLATES["vicuna_v1"].system
    expected = processor.tokenizer(f"{system} USER: <image>\nWhat is this? ASSISTANT:")["input_ids"]
    at = expected.index(image_token_id(tokenizer))
    expected[at : at + 1] = [expected[at]] * 4  # 2 x 2 patches
    assert made["input_ids"][0].tolist() == expected
    assert expected[0] == processor.tokenizer.bos_token_id
    assert made["pixel_values"].shape == (1, 3, 28, 28)


def test_the_template_of_a_tokenizer_is_kept_for_rows_of_another_kind(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(QUICKSTART / "tokenizer", tmp_path / "tokenizer"))
    (folder / "chat_template.jinja").write_text("of the tokenizer")
    images = make_image_processor({}, image_size=28, pad=False)
    for template in (None, RowTemplate("plain"), RowTemplate("chat_template")):
        tokenizer = load_prompt_tokenizer(str(folder), "test")
        assert make_processor(tokenizer, images, patch_size=14, template=template).chat_template == "of the tokenizer"
