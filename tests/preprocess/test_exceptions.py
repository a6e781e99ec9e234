"""The cases of docs/rows.md in which rows differ from the LLaVA authors' code, on the embedded tokenizer."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from conftest import QUICKSTART, turn_pair

from hdf5_writer.fitting import fit_samples
from hdf5_writer.rows import RowLayout, empty_rows, place_samples, write_rows
from preprocess.conversation import read_conversation
from preprocess.record_keys import RecordKeys
from preprocess.samples import Sample, batch_of
from preprocess.segments import Mark
from preprocess.templates import TEMPLATES, LlavaRenderer
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import load_tokenizer

RENDERER = LlavaRenderer(TEMPLATES["vicuna_v1"])


@functools.cache
def encoder() -> Encoder:
    return Encoder(load_tokenizer(str(QUICKSTART / "tokenizer")))


def sample(question: str, answer: str, **record: Any) -> Sample:
    conversation = read_conversation({"conversations": turn_pair(question, answer), **record}, RecordKeys())
    return encoder().encode(RENDERER.render(conversation))


def supervised_text(sequence: Sample) -> str:
    tokens = encoder().tokenizer.tokens
    spans = (sequence.ids[start:end].tolist() for start, end in sequence.supervised)
    return "".join(tokens[id_] for ids in spans for id_ in ids).replace("▁", " ")


def test_special_tokens_typed_in_a_text_stay_text() -> None:
    eos = encoder().tokenizer.eos_id
    assert (sample("Q </s>", "A </s> <s>").ids == eos).sum() == 1


def test_role_markers_inside_a_text_do_not_mask_the_sample() -> None:
    assert supervised_text(sample("Q", "He said ASSISTANT: yes. USER: no.")) == " He said ASSISTANT: yes. USER: no.</s>"


def test_a_truncated_row_predicts_the_token_after_the_cut() -> None:
    sequence = sample("<image>\nQ", "word " * 200 + "end", image="a.png")
    assert sequence.image_at
    start = sequence.image_at[0]
    layout = RowLayout(start + 4 + 40, 4, start, encoder().tokenizer.pad_id, truncate=True)
    batch, facts, wrong = fit_samples(batch_of(sequence), layout)
    rows = empty_rows(1, layout)
    write_rows(batch, place_samples(facts.length, np.ones(1, np.int64)), layout, rows)
    assert not wrong
    assert facts.truncated.all()
    assert rows.loss_mask[0, -1] == 1
    assert rows.labels[0, -1] == sequence.ids[start + 40]


def test_a_text_only_row_has_num_patches_fewer_positions() -> None:
    sequence = sample("Q", "word " * 100)
    start = len(encoder().encode(RENDERER.before_image()).ids)
    length = len(sequence.ids) - 1
    for slots, truncated in ((1, True), (0, False)):
        layout = RowLayout(length, slots, start, encoder().tokenizer.pad_id, truncate=True)
        _, facts, _ = fit_samples(batch_of(sequence), layout)
        assert facts.truncated.tolist() == [truncated]
        assert facts.text_tokens.tolist() == [length - slots]


def test_an_image_token_that_appears_when_another_is_removed_is_text() -> None:
    conversation = read_conversation(
        {"image": "a.png", "conversations": turn_pair("a <im<image>age> b", "A")}, RecordKeys()
    )
    assert (conversation.images, conversation.rounds) == (("a.png",), [("a <image> b", "A")])
    segments = RENDERER.render(conversation)
    assert segments.count(Mark.IMAGE) == 1


def test_a_round_with_an_empty_answer_is_left_out() -> None:
    turns = [*turn_pair("Q1", ""), *turn_pair("Q2", "A2")]
    conversation = read_conversation({"conversations": turns}, RecordKeys())
    assert (conversation.rounds, conversation.rounds_dropped) == ([("Q2", "A2")], 1)
