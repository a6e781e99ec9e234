"""Every record of every golden gives the ids and supervised positions of the LLaVA authors' own code."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CHECKOUT, QUICKSTART, needs_shared, shared_folder

from hdf5_writer.fitting import fit_samples
from hdf5_writer.rows import RowLayout, empty_rows, place_samples, write_rows
from preprocess.conversation import read_conversation
from preprocess.record_keys import RecordKeys
from preprocess.templates import TEMPLATES, LlavaRenderer
from preprocess.tokenize.batches import BatchEncoder
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import load_tokenizer

IMAGE, IGNORED, PATCHES = -200, -100, 576
EMBEDDED_RECORDS = 569
EMBEDDED = sorted((CHECKOUT / "tests" / "golden" / "embedded").glob("*.jsonl"))
EMBEDDED_TOKENIZERS = [QUICKSTART / "tokenizer_sentencepiece", QUICKSTART / "tokenizer"]
SHARED = sorted(shared_folder("golden").glob("*.jsonl"))
SHARED_TOKENIZERS = [shared_folder("tokenizers") / name for name in ("llama2-json", "llama2-sentencepiece")]


@functools.cache
def encoder_of(tokenizer: Path) -> Encoder:
    return Encoder(load_tokenizer(str(tokenizer)))


def named(path: Path) -> str:
    return path.stem


def style_of(path: Path) -> str:
    return path.stem.split(".")[-1]


def golden_templates() -> dict[str, Any]:
    templates: dict[str, Any] = json.loads((shared_folder("golden") / "templates.json").read_text())
    return templates


def image_start_idx(encoder: Encoder, style: str) -> int:
    return len(encoder.encode(LlavaRenderer(TEMPLATES[style]).before_image()).ids)


def test_the_embedded_goldens_are_complete() -> None:
    assert {style_of(path) for path in EMBEDDED} == {
        *("plain", "vicuna_v1", "llava_v1", "v1_mmtag", "llama_2", "llava_llama_2", "mistral_instruct")
    }
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in EMBEDDED) == EMBEDDED_RECORDS


@pytest.mark.parametrize("tokenizer", EMBEDDED_TOKENIZERS, ids=named)
@pytest.mark.parametrize("path", EMBEDDED, ids=named)
def test_rows_equal_the_embedded_goldens(tokenizer: Path, path: Path) -> None:
    assert different_rows(encoder_of(tokenizer), path) == []


@pytest.mark.slow
@needs_shared("golden")
@needs_shared("tokenizers")
@pytest.mark.parametrize("tokenizer", SHARED_TOKENIZERS, ids=named)
@pytest.mark.parametrize("path", SHARED, ids=named)
def test_rows_equal_the_goldens_of_llama_2(tokenizer: Path, path: Path) -> None:
    assert different_rows(encoder_of(tokenizer), path) == []


@needs_shared("golden")
@needs_shared("tokenizers")
@pytest.mark.parametrize("tokenizer", SHARED_TOKENIZERS, ids=named)
def test_image_start_idx_equals_that_of_the_authors_code(tokenizer: Path) -> None:
    for style, golden in golden_templates().items():
        assert image_start_idx(encoder_of(tokenizer), style) == golden["image_start_idx_llama2"], style


@needs_shared("golden")
def test_templates_equal_those_of_the_authors_code() -> None:
    for style, golden in golden_templates().items():
        template = TEMPLATES[style]
        assert template.system == golden["system"]
        assert template.image == golden["image"]
        assert template.bos_between_rounds == (golden["between_rounds"] == ["BOS"])
        assert [template.answer, *(["EOS"] if template.answer_ends_with_eos else [])] == golden["supervised"]
        if style != "plain":
            assert (template.first_prompt, template.later_prompt) == (golden["first_prompt"], golden["later_prompt"])


def different_rows(encoder: Encoder, path: Path) -> list[int]:
    """Line numbers of the goldens that differ from the rows."""
    style = style_of(path)
    renderer = LlavaRenderer(TEMPLATES[style])
    start = image_start_idx(encoder, style)
    layout = RowLayout(4096, PATCHES, start, encoder.tokenizer.pad_id, truncate=True)
    goldens = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert goldens
    conversations = [
        read_conversation(golden["record"], RecordKeys(), only_one_round=style == "plain") for golden in goldens
    ]
    batch, failed = BatchEncoder(encoder).encode([renderer.render(conversation) for conversation in conversations])
    batch, facts, unfit = fit_samples(batch, layout)
    assert not failed
    assert not unfit
    rows = empty_rows(len(goldens), layout)
    write_rows(batch, place_samples(facts.length, np.ones(len(goldens), np.int64)), layout, rows)
    return [
        number + 1
        for number, (golden, used) in enumerate(zip(goldens, facts.length.tolist(), strict=True))
        if not row_is_golden(rows.part(number, number + 1), used, golden, layout, not conversations[number].images)
    ]


def row_is_golden(rows: Any, used: int, golden: dict[str, Any], layout: RowLayout, text_only: bool) -> bool:
    ids, labels = golden["input_ids"], golden["labels"]
    inputs, row_labels, mask = rows.text_input_ids[0], rows.labels[0], rows.loss_mask[0]
    start, slots = layout.image_start_idx, layout.num_patches
    if text_only:
        # Take the dummy slots out; the authors cut text-only records at 2048 tokens.
        keep = np.r_[0:start, start + slots : used]
        inputs, mask = inputs[keep], mask[keep]
        row_labels = np.append(inputs[1:], row_labels[used - 1])
        expected_ids, expected_labels = ids, labels
        if len(ids) == 2048:
            inputs, row_labels, mask = inputs[:2047], row_labels[:2047], mask[:2047]
    else:
        at = ids.index(IMAGE)
        expected_ids = ids[:at] + [layout.pad_id] * slots + ids[at + 1 :]
        expected_labels = labels[:at] + [IGNORED] * slots + labels[at + 1 :]
        inputs, row_labels, mask = inputs[:used], row_labels[:used], mask[:used]
    supervised = [label != IGNORED for label in expected_labels[1:]]
    pairs = zip(expected_labels[1:], expected_ids[1:], strict=True)
    return (
        inputs.tolist() == expected_ids[:-1]
        and row_labels.tolist() == expected_ids[1:]
        and mask.tolist() == [int(flag) for flag in supervised]
        and all(label in (token, IGNORED) for label, token in pairs)
    )
