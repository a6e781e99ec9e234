"""Rows of current chat templates equal the output of the reference code for real tokenizers and records.

`../shared/golden/modern/README.md` names the code that made each file, and its tokenizer.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import needs_shared, shared_folder

from preprocess.config import DatasetConfig
from preprocess.conversation import read_conversation
from preprocess.record_keys import RecordKeys
from preprocess.samples import SampleBatch, batch_of
from preprocess.segments import Segment
from preprocess.templates import CHAT_TEMPLATES, Renderer, renderer_for
from preprocess.tokenize.batches import BatchEncoder
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import Tokenizer, load_tokenizer

TOKENIZERS = {
    "chatml": "qwen2_5",
    "chatml_qwen": "qwen2_5",
    "llama_3": "llama3",
    "llama_3.1": "llama3",
    "phi_3": "phi3",
    "phi_3_bos": "phi3_april",
    "gemma": "gemma",
    "mistral_v3": "mistral_v3",
    "mistral_tekken": "mistral_tekken",
}
# Number of ids before the image of a fixed dataset, from the README.
IMAGE_START = {
    "chatml_qwen": 24,
    "chatml": 3,
    "llama_3": 5,
    "llama_3.1": 30,
    "phi_3": 1,
    "phi_3_bos": 4,
    "gemma": 4,
    "mistral_v3": 3,
    "mistral_tekken": 2,
}
# Source of each Jinja text: a package and a file in it, or the folder of the tokenizer. `pip install --no-deps trl`.
_AXOLOTL = "utils/chat_templates/templates"
JINJA = {
    "chatml": ("axolotl", f"{_AXOLOTL}/chatml.jinja"),
    "chatml_qwen": ("trl", "chat_templates/qwen2_5.jinja"),
    "llama_3": ("trl", "chat_templates/llama3.jinja"),
    "llama_3/marked": ("trl", "chat_templates/llama3_training.jinja"),
    "llama_3.1": ("trl", "chat_templates/llama3_1.jinja"),
    "phi_3": ("trl", "chat_templates/phi3.jinja"),
    "phi_3_bos": ("axolotl", f"{_AXOLOTL}/phi_3.jinja"),
    "gemma": ("trl", "chat_templates/gemma.jinja"),
    "mistral_v3": ("", ""),
    "mistral_tekken": ("axolotl", f"{_AXOLOTL}/mistral_v3_tekken.jinja"),
    "chatml_qwen/folder": ("", ""),
    "llama_3/folder": ("", ""),
    "phi_3/folder": ("", ""),
    "gemma/folder": ("", ""),
    "mistral_tekken/folder": ("", ""),
}
FIXED_REJECTS = ["hard-067", "hard-069", "hard-071", "hard-073"]
FILES = sorted(shared_folder("golden/modern").glob("*.jsonl"))
IMAGE = -200

pytestmark = [needs_shared("golden/modern"), needs_shared("tokenizers")]


def style_of(name: str) -> str:
    return next(name.removesuffix(part) for part in (".multi", ".literal", ".system", "") if name.endswith(part))


@functools.cache
def tokenizer_of(style: str) -> Tokenizer:
    return load_tokenizer(str(shared_folder("tokenizers") / TOKENIZERS[style]))


def renderer_of(style: str) -> Renderer:
    return renderer_for(DatasetConfig(system_prompt_style=style), tokenizer_of(style))


def segments_of(record: dict[str, Any], renderer: Renderer) -> list[Segment]:
    tokens = sum(turn["value"].count("<image>") for turn in record["conversations"] if turn["from"] == "human")
    if "image" in record:
        record = record | {"image": [record["image"]] * tokens}
    conversation = read_conversation(
        record,
        RecordKeys(),
        image_in_front=renderer.traits.image_in_front,
        takes_system=renderer.traits.takes_system,
        max_images=tokens,
        empty_answer="keep",
    )
    return renderer.render(conversation)


def row_of(batch: SampleBatch) -> tuple[list[int], list[int]]:
    """Ids with -200 for each image, and 0 or 1 for each of them."""
    ids, supervised = batch.ids.tolist(), batch.supervised.astype(int).tolist()
    for position in reversed(batch.image_at.tolist()):
        ids.insert(position, IMAGE)
        supervised.insert(position, 0)
    return ids, supervised


def is_golden(found: tuple[list[int], list[int]], golden: dict[str, Any]) -> bool:
    ids, supervised = found
    either_way = set(golden.get("glued", []))
    return ids == golden["input_ids"] and [flag for i, flag in enumerate(supervised) if i not in either_way] == [
        flag for i, flag in enumerate(golden["supervised"]) if i not in either_way
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rows_equal_the_goldens(path: Any) -> None:
    style = style_of(path.stem)
    renderer, encoder = renderer_of(style), Encoder(tokenizer_of(style))
    goldens = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    records = [segments_of(golden["record"], renderer) for golden in goldens]
    batch, failed = BatchEncoder(encoder).encode(records)
    assert failed == {}
    assert len(goldens) >= 38
    for number, (golden, segments) in enumerate(zip(goldens, records, strict=True)):
        assert is_golden(row_of(batch_of(encoder.encode(segments))), golden), golden["record"]["id"]
        assert is_golden(row_of(batch.part(number, number + 1)), golden), f"{golden['record']['id']} in a batch"


def jinja_template(style: str) -> Path | None:
    """The template text that the README names for a style; None for the template of the tokenizer's folder."""
    package, name = JINJA[style]
    if not package:
        return None
    spec = importlib.util.find_spec(package)  # without executing it
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed, which has {name}")
    return Path(spec.origin).parent / name


@pytest.mark.slow
@pytest.mark.parametrize("style", JINJA)
def test_rows_of_the_jinja_template_equal_the_goldens(style: str) -> None:
    dataset = DatasetConfig(system_prompt_style="chat_template", chat_template=jinja_template(style))
    named = style.split("/")[0]
    renderer, encoder = renderer_for(dataset, tokenizer_of(named)), Encoder(tokenizer_of(named))
    for path in FILES:
        if style_of(path.stem) != named or path.stem.endswith(".system"):
            continue
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line:
                golden = json.loads(line)
                sample = encoder.encode(segments_of(golden["record"], renderer))
                assert is_golden(row_of(batch_of(sample)), golden), f"{path.stem}: {golden['record']['id']}"


@pytest.mark.slow
def test_a_fixed_dataset_rejects_images_after_a_system_text_or_a_question() -> None:
    """These of the 270 records of ChatML; all others with an image have it at the start of the first question."""
    renderer, encoder = renderer_of("chatml"), Encoder(tokenizer_of("chatml"))
    elsewhere = []
    lines = (shared_folder("golden/modern") / "chatml.jsonl").read_text(encoding="utf-8").split("\n")
    for golden in (json.loads(line) for line in lines if line):
        sample = encoder.encode(segments_of(golden["record"], renderer))
        if sample.image_at and sample.image_at[0] != IMAGE_START["chatml"]:
            turns = golden["record"]["conversations"]
            first = next(turn["value"] for turn in turns if turn["from"] == "human")
            assert turns[0]["from"] == "system" or not first.startswith("<image>\n")
            elsewhere.append(golden["record"]["id"])
    assert elsewhere == FIXED_REJECTS


@pytest.mark.slow
@pytest.mark.parametrize("style", TOKENIZERS)
def test_the_image_position_of_a_fixed_dataset_is_that_of_the_goldens(style: str) -> None:
    before = renderer_of(style).before_image()
    assert len(Encoder(tokenizer_of(style)).encode(before).ids) == IMAGE_START[style]


def test_all_templates_have_goldens() -> None:
    assert set(TOKENIZERS) == set(CHAT_TEMPLATES) == {style_of(path.stem) for path in FILES}
