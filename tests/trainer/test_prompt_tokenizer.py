"""The tokenizer saved with a model gives a prompt the ids of its row: images, text only, runs of spaces."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUICKSTART, needs_shared, shared_folder, turn_pair
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from transformers import AutoProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig  # noqa: E402

from hdf5_writer.fitting import fit_samples  # noqa: E402
from hdf5_writer.rows import RowLayout, empty_rows, place_samples, write_rows  # noqa: E402
from preprocess.conversation import read_conversation  # noqa: E402
from preprocess.record_keys import RecordKeys  # noqa: E402
from preprocess.segments import Mark, Segment, Text  # noqa: E402
from preprocess.templates import TEMPLATES, LlavaRenderer  # noqa: E402
from preprocess.tokenize.batches import BatchEncoder  # noqa: E402
from preprocess.tokenize.encoder import Encoder  # noqa: E402
from preprocess.tokenize.tokenizer import load_tokenizer  # noqa: E402
from trainer.params_file import ParamsError  # noqa: E402
from trainer.processor import make_image_processor, make_processor  # noqa: E402
from trainer.prompt_tokenizer import image_token_id, load_prompt_tokenizer  # noqa: E402

PATCHES, LENGTH = 1, 8192
GOLDEN_FILES = sorted(shared_folder("golden").glob("*.jsonl"))
EMBEDDED = [QUICKSTART / "tokenizer", QUICKSTART / "tokenizer_sentencepiece"]
LLAMA_2 = [shared_folder("tokenizers") / name for name in ("llama2-json", "llama2-sentencepiece")]


@functools.cache
def saved_processor(source: Path, folder: Path) -> Any:
    """The processor that a user loads from the folder of a model."""
    tokenizer = load_prompt_tokenizer(str(source), "test")
    images = make_image_processor({}, image_size=14, pad=False)
    make_processor(tokenizer, images, patch_size=14).save_pretrained(folder)
    LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=14, patch_size=14),
        text_config=LlamaConfig(),
        image_token_index=image_token_id(tokenizer),
    ).save_pretrained(folder)
    return AutoProcessor.from_pretrained(folder)


@functools.cache
def row_encoder(source: Path) -> Encoder:
    return Encoder(load_tokenizer(str(source)))


def rows_of(source: Path, renderer: LlavaRenderer, conversations: list[Any]) -> list[tuple[list[int], str]]:
    """For each conversation the ids of its row, and the same as one prompt, without its BOS."""
    encoder = row_encoder(source)
    start = len(encoder.encode(renderer.before_image()).ids)
    layout = RowLayout(LENGTH, PATCHES, start, encoder.tokenizer.pad_id, truncate=True)
    rendered = [renderer.render(conversation) for conversation in conversations]
    batch, failed = BatchEncoder(encoder).encode(rendered)
    batch, facts, unfit = fit_samples(batch, layout)
    assert not failed
    assert not unfit
    rows = empty_rows(len(rendered), layout)
    write_rows(batch, place_samples(facts.length, np.ones(len(rendered), np.int64)), layout, rows)
    marks = {mark: f"<{mark.name.lower()}>" for mark in Mark} | {Mark.BOS: "<s>", Mark.EOS: "</s>"}
    made = []
    for number, (segments, conversation) in enumerate(zip(rendered, conversations, strict=True)):
        used = int(facts.length[number])
        text_only = not conversation.images
        ids = [*rows.text_input_ids[number, :used].tolist(), int(rows.labels[number, used - 1])]
        if text_only:
            del ids[start : start + PATCHES]
        prompt = "".join(part.text if isinstance(part, Text) else marks[part] for part in segments)
        made.append((ids, prompt.removeprefix("<s>")))
    return made


def prompt_ids(processor: Any, prompts: list[str], pad_id: int) -> list[list[int]]:
    """Ids of prompts, in which the one image token is one slot, as in these rows.

    The first two with an image come from the processor itself with a picture, which takes time; those and all others
    from its tokenizer, which is what the processor calls.
    """
    token = image_token_id(processor.tokenizer)
    ids = processor.tokenizer(prompts)["input_ids"]
    with_image = [number for number, prompt in enumerate(prompts) if "<image>" in prompt][:2]
    for number in with_image:
        made = processor(images=torch.zeros(3, 14, 14), text=prompts[number])["input_ids"][0]
        assert [int(id_) for id_ in made] == ids[number]
    return [[pad_id if id_ == token else id_ for id_ in made] for made in ids]


@pytest.mark.slow
@needs_shared("golden")
@needs_shared("tokenizers")
@pytest.mark.parametrize("source", LLAMA_2, ids=lambda path: path.name)
@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: path.stem)
def test_the_saved_processor_gives_the_ids_of_the_row_on_every_golden(
    source: Path, path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    style = path.name.split(".")[-2]
    processor = saved_processor(source, tmp_path_factory.getbasetemp() / source.name)
    records = [json.loads(line)["record"] for line in path.read_text(encoding="utf-8").splitlines()]
    conversations = [read_conversation(record, RecordKeys(), only_one_round=style == "plain") for record in records]
    rows = rows_of(source, LlavaRenderer(TEMPLATES[style]), conversations)
    assert rows
    made = prompt_ids(processor, [prompt for _, prompt in rows], row_encoder(source).tokenizer.pad_id)
    assert [n + 1 for n, ((ids, _), ours) in enumerate(zip(rows, made, strict=True)) if ids != ours] == []


_PARTS = st.sampled_from(
    ["a", "color", "Answer", ".", "\n", " ", "  ", "   ", "▁", "\t", "é", "猫", "🦉", "USER:", "0"]
)
_TEXTS = st.lists(_PARTS, min_size=1, max_size=12).map("".join).filter(str.strip)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(style=st.sampled_from(sorted(TEMPLATES)), texts=st.tuples(_TEXTS, _TEXTS, _TEXTS, _TEXTS), image=st.booleans())
@pytest.mark.parametrize("source", EMBEDDED, ids=lambda path: path.name)
def test_spaces_newlines_and_later_rounds_have_the_ids_of_the_row(
    source: Path, style: str, texts: tuple[str, str, str, str], image: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    processor = saved_processor(source, tmp_path_factory.getbasetemp() / f"embedded-{source.name}")
    image = image or style == "plain"
    # Text-only needs a first question that is not shorter than the text before an image.
    turns = turn_pair(("<image>\n" if image else "word " * 12) + texts[0], texts[1])
    turns += [] if style == "plain" else turn_pair(texts[2], texts[3])
    record = {"conversations": turns} | ({"image": "a.png"} if image else {})
    conversation = read_conversation(record, RecordKeys(), only_one_round=style == "plain")
    [(ids, prompt)] = rows_of(source, LlavaRenderer(TEMPLATES[style]), [conversation])
    assert prompt_ids(processor, [prompt], row_encoder(source).tokenizer.pad_id) == [ids]


@pytest.mark.parametrize("source", EMBEDDED, ids=lambda path: path.name)
def test_rows_written_with_the_saved_tokenizer_are_the_same(source: Path, tmp_path: Path) -> None:
    """The folder of a trained model can be used as `processor.tokenizer_type`, too."""
    saved_processor(source, tmp_path)
    before, after = load_tokenizer(str(source)), load_tokenizer(str(tmp_path))
    assert (after.sentencepiece_rule, after.dummy_prefix) == (True, True)
    assert after.tokens[: before.vocab_size] == before.tokens
    segments: list[Segment] = [Mark.BOS, Text("  USER: ", False), Mark.IMAGE, Text("\nWhat   is it?", False), Mark.EOS]
    segments.append(Text("USER: a</s>", False))
    assert Encoder(after).encode(segments).ids.tolist() == Encoder(before).encode(segments).ids.tolist()


@pytest.mark.parametrize("source", EMBEDDED, ids=lambda path: path.name)
def test_saving_and_loading_the_tokenizer_gives_the_same_tokenizer(source: Path, tmp_path: Path) -> None:
    """A second phase uses the tokenizer of the first."""
    saved_processor(source, tmp_path / "one")
    saved_processor(tmp_path / "one", tmp_path / "two")
    first, second = (json.loads((tmp_path / name / "tokenizer.json").read_bytes()) for name in ("one", "two"))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("source", EMBEDDED, ids=lambda path: path.name)
def test_a_prompt_begins_with_bos_and_ends_without_eos_regardless_of_the_tokenizer_settings(
    source: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "tokenizer"))
    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    config |= {"add_bos_token": False, "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = saved_processor(folder, tmp_path / "saved").tokenizer
    assert tokenizer("USER:").input_ids == saved_processor(source, tmp_path / "unchanged").tokenizer("USER:").input_ids
    assert tokenizer("").input_ids == [tokenizer.bos_token_id]


@pytest.mark.slow
@needs_shared("tokenizers")
@pytest.mark.parametrize(
    "name",
    # Large vocabularies take seconds to load.
    ["mistral_v3", *(pytest.param(name, marks=pytest.mark.long) for name in ("phi3", "llama3", "gemma", "qwen2_5"))],
)
def test_other_families_have_the_ids_of_the_row_too(name: str, tmp_path: Path) -> None:
    source = shared_folder("tokenizers") / name
    tokenizer = saved_processor(source, tmp_path).tokenizer
    encoder = row_encoder(source)
    segments: list[Segment] = [Mark.BOS, Text("Hello.  USER: ", False), Mark.IMAGE, Text("\nWhat   is it? A:", False)]
    segments += [Text(" A cat,\n\n 123.", True), Mark.EOS, Text("USER: Why? A:", False)]
    made = encoder.encode(segments)
    assert made.image_at
    expected = made.ids.tolist()
    expected.insert(made.image_at[0], image_token_id(tokenizer))
    prompt = f"Hello.  USER: <image>\nWhat   is it? A: A cat,\n\n 123.{tokenizer.eos_token}USER: Why? A:"
    assert tokenizer(prompt).input_ids == expected


def test_decoding_ids_gives_the_text(tmp_path: Path) -> None:
    tokenizer = saved_processor(EMBEDDED[0], tmp_path).tokenizer
    text = "USER: What  is this?\n ASSISTANT: A red circle."
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert tokenizer("").input_ids == [tokenizer.bos_token_id]


def test_a_tokenizer_that_cannot_write_rows_is_refused_in_one_sentence(tmp_path: Path) -> None:
    document = json.loads((QUICKSTART / "tokenizer" / "tokenizer_config.json").read_bytes()) | {"eos_token": "[END]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(document))
    (tmp_path / "tokenizer.json").write_bytes((QUICKSTART / "tokenizer" / "tokenizer.json").read_bytes())
    with pytest.raises(ParamsError, match=r"^model\.text_model\.tokenizer \S+: eos_token is '\[END\]', which is not"):
        load_prompt_tokenizer(str(tmp_path), "model.text_model.tokenizer")
