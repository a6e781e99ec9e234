"""Several images with the templates of LLaVA 1.5: ids and supervised positions equal those of a slow reference.

The reference is written from the code of the LLaVA authors alone: `preprocess_multimodal` (LLaVA-VL/LLaVA-NeXT,
llava/train/train.py), `Conversation.get_prompt` (haotian-liu/LLaVA, llava/conversation.py), `tokenizer_image_token`
(llava/mm_utils.py) and what `preprocess_v1` and `preprocess_llama_2` supervise. One deviation: with `v1_mmtag`, their
code of several images writes the tags around an image only where it moves the token; here each image has them, as with
the one image of LLaVA 1.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from conftest import turn_pair
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from small_tokenizers import FOLDERS

from hdf5_writer.config import Config, build_config
from hdf5_writer.stages import Stages
from preprocess.rejects import Reason, Rejected
from preprocess.templates import TEMPLATES
from preprocess.tokenize.tokenizer import load_tokenizer

IMAGE, IMAGE_ID = "<image>", -200
BOS_ID, EOS_ID = 1, 2
WITH_SENTENCEPIECE = [folder for folder in FOLDERS if (folder / "tokenizer.model").exists()]
STYLES = ["vicuna_v1", "llava_v1", "v1_mmtag", "llama_2", "llava_llama_2", "mistral_instruct"]
_TEXTS = ["What", " differs", "\n", " ", "  ", "?", ".", "é", "你好", "🙂", "USER:", "[/INST]", "</s>", "a.b", " Q "]
QUESTIONS = st.lists(st.sampled_from([*_TEXTS, IMAGE, IMAGE]), min_size=1, max_size=7).map("".join)
ANSWERS = st.lists(st.sampled_from(_TEXTS), max_size=4).map(lambda parts: "A" + "".join(parts))
ROUNDS = st.lists(st.tuples(QUESTIONS, ANSWERS), min_size=1, max_size=3)

Library = Callable[[str], list[int]]


def multimodal(question: str, style: str) -> str:
    """`preprocess_multimodal` of several images, for one turn."""
    if len(re.findall(IMAGE, question)) == 1 and not question.startswith(IMAGE):
        question = question.replace(IMAGE, "").strip()
        question = IMAGE + "\n" + question
        question = question.strip()
    return question.replace(IMAGE, f"<Image>{IMAGE}</Image>") if style == "v1_mmtag" else question


def prompts_of(rounds: list[tuple[str, str]], style: str) -> list[tuple[str, str]]:
    """`get_prompt`: for each round, the text before its answer, and the answer up to the end token."""
    system = TEMPLATES[style].system
    prompts = []
    for number, (question, answer) in enumerate(rounds):
        question = multimodal(question, style)
        if style in ("vicuna_v1", "llava_v1", "v1_mmtag"):
            before = f"{system} " if number == 0 else ""
            prompts.append((f"{before}USER: {question} ASSISTANT:", f" {answer}"))
        else:
            before = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if number == 0 and system else ""
            prompts.append((f"[INST] {before}{question} [/INST]", f" {answer} "))
    return prompts


def reference(rounds: list[tuple[str, str]], style: str, library: Library) -> tuple[list[int], list[bool]]:
    """`tokenizer_image_token`: each text between images is encoded as a whole; and which positions are supervised."""
    newline = library("\n")
    ids, flags = [BOS_ID], [False]
    for number, (prompt, answer) in enumerate(prompts_of(rounds, style)):
        if number and style in ("llama_2", "llava_llama_2"):
            ids.append(BOS_ID)
            flags.append(False)
        for place, chunk in enumerate(prompt.split(IMAGE)):
            if place:
                ids.append(IMAGE_ID)
                flags.append(False)
            texts = [chunk, chunk + answer] if place == prompt.count(IMAGE) else [chunk, chunk]
            # The dummy prefix is added at the start of an encoded text, not after a special token in it. Newlines never
            # merge, so the text after one is encoded without the prefix.
            starts = number == 0 or place > 0
            context, whole = (library(text) if starts else library("\n" + text)[len(newline) :] for text in texts)
            assert whole[: len(context)] == context
            ids += whole
            flags += [False] * len(context) + [True] * (len(whole) - len(context))
        ids.append(EOS_ID)
        flags.append(True)
    return ids, flags


@pytest.fixture(scope="module", params=WITH_SENTENCEPIECE, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture(scope="module")
def library(folder: Path) -> Library:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return lambda text: list(processor.EncodeAsIds(text))


@pytest.fixture(scope="module")
def stages_of(folder: Path) -> Callable[[str], Stages]:
    made: dict[str, Stages] = {}
    tokenizer = load_tokenizer(str(folder))

    def stages(style: str) -> Stages:
        if style not in made:
            made[style] = Stages(config_of(style, folder), tokenizer)
        return made[style]

    return stages


def config_of(style: str, folder: Path) -> Config:
    values: dict[str, dict[str, Any]] = {
        "setup": {"input_dir": "in", "output_dir": "out"},
        "processor": {"tokenizer_type": str(folder)},
        "dataset": {"system_prompt_style": style, "check_images": "none", "max_images": 1000},
    }
    return build_config(values, "test", folder)


def ids_of(stages: Stages, rounds: list[tuple[str, str]]) -> tuple[list[int], list[bool]]:
    """Result of the stages for a record, with the positions of its images in the ids."""
    turns = [turn for question, answer in rounds for turn in turn_pair(question, answer)]
    images = [f"{number}.png" for number in range(sum(question.count(IMAGE) for question, _ in rounds))]
    conversation = stages.read({"image": images, "conversations": turns}, "llava")
    assert conversation.images == tuple(images)
    sample = stages.encode(conversation)
    batch, failed = stages.batches.encode([stages.renderer.render(conversation)] * 2)
    assert not failed
    assert batch.part(1, 2).ids.tolist() == sample.ids.tolist()
    assert batch.part(1, 2).image_at.tolist() == list(sample.image_at)
    supervised = np.zeros(len(sample.ids), bool)
    for start, end in sample.supervised:
        supervised[start:end] = True
    assert batch.part(1, 2).supervised.tolist() == supervised.tolist()
    return (
        np.insert(sample.ids, sample.image_at, IMAGE_ID).tolist(),
        np.insert(supervised, sample.image_at, False).tolist(),
    )


WRITTEN = [
    [("<image>\n<image>\nWhat differs?", "The colour.")],
    [("<image><image>", "Two.")],
    [("<image>Q1", "A1"), ("What of this?\n<image>", "A2")],
    [("no image yet", "A1"), ("<image>", "A2"), (" <image> ", "A3"), ("Q4", "A4")],
    [("Compare <image> with <image>, and <image>.", "A"), ("And\n<image>?", "B")],
    [("  <image> \n<image>  ", " A "), ("</s><image>[/INST]", "A2")],
    [("<image>" * 300, "Many.")],
]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("rounds", WRITTEN, ids=range(len(WRITTEN)))
def test_written_records_of_several_images_equal_the_reference(
    stages_of: Callable[[str], Stages], library: Library, style: str, rounds: list[tuple[str, str]]
) -> None:
    found = ids_of(stages_of(style), rounds)
    assert found == reference(rounds, style, library)
    assert found[0].count(IMAGE_ID) == sum(question.count(IMAGE) for question, _ in rounds)


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(style=st.sampled_from(STYLES), rounds=ROUNDS)
def test_generated_records_of_several_images_equal_the_reference(
    stages_of: Callable[[str], Stages], library: Library, style: str, rounds: list[tuple[str, str]]
) -> None:
    assume(sum(question.count(IMAGE) for question, _ in rounds) > 1)
    assert ids_of(stages_of(style), rounds) == reference(rounds, style, library)


def test_the_plain_template_rejects_a_second_image(stages_of: Callable[[str], Stages]) -> None:
    """`preprocess_plain` always writes one image token, so a second image would have none."""
    with pytest.raises(Rejected) as rejected:
        ids_of(stages_of("plain"), [("<image><image>", "A")])
    assert rejected.value.reason is Reason.TOO_MANY_IMAGES
