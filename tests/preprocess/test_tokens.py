"""Cached ids equal the library's, whole conversations equal a slow reference, special tokens stay out of text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import BYTES, FOLDERS, SLOW, TEXTS, bpe, saved

from preprocess.conversation import Conversation
from preprocess.segments import Mark, Text
from preprocess.templates import TEMPLATES, LlavaRenderer
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.splitters import SentencePieceSplitter
from preprocess.tokenize.tokenizer import load_tokenizer

Library = Callable[[str], list[int]]


def library_of(folder: Path) -> Library:
    """Ids of a whole text from the library, with the dummy prefix."""
    if (folder / "tokenizer.model").exists():
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        return lambda text: list(processor.EncodeAsIds(text))
    model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).model
    return lambda text: [token.id for token in model.tokenize("▁" + text.replace(" ", "▁"))] if text else []


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    found = Encoder(load_tokenizer(str(folder)))
    assert isinstance(found.tokenizer.splitter, SentencePieceSplitter)
    assert found.tokenizer.splitter.newline_is_isolated
    return found


@pytest.fixture(scope="module")
def library(folder: Path) -> Library:
    return library_of(folder)


@pytest.mark.slow
@SLOW
@given(text=TEXTS)
def test_cached_ids_equal_those_of_the_library(encoder: Encoder, library: Library, text: str) -> None:
    assert encoder.encode([Mark.IMAGE, Text(text, False)]).ids.tolist() == library(text)


def test_a_full_cache_is_cleared_and_ids_stay_the_same(monkeypatch: pytest.MonkeyPatch, library: Library) -> None:
    monkeypatch.setattr("preprocess.tokenize.encoder._MAX_CACHED", 5)
    folder = FOLDERS[0]
    encoder, library = Encoder(load_tokenizer(str(folder))), library_of(folder)
    for start in range(40):
        text = " ".join(f"word{start + i}\nx{i}" for i in range(9))
        assert encoder.encode([Mark.IMAGE, Text(text, False)]).ids.tolist() == library(text)
        assert len(encoder._after_space) <= 5


@pytest.mark.slow
@SLOW
@given(data=st.data())
def test_conversations_equal_a_slow_reference(encoder: Encoder, library: Library, data: st.DataObject) -> None:
    style = data.draw(st.sampled_from(sorted(TEMPLATES)))
    with_image = style == "plain" or data.draw(st.booleans())
    question = TEXTS.map(str.strip) if with_image else TEXTS
    rounds = data.draw(
        st.lists(st.tuples(question, TEXTS.filter(lambda t: not t.isspace() and t != "")), min_size=1, max_size=3)
    )
    rounds = rounds[: 1 if style == "plain" else None]
    conversation = Conversation(rounds, ("a.png",) if with_image else (), False, False)
    found = encoder.encode(LlavaRenderer(TEMPLATES[style]).render(conversation))
    ids, flags, image_at = reference(style, conversation, library)
    supervised = [False] * len(ids)
    for start, end in found.supervised:
        supervised[start:end] = [True] * (end - start)
    assert (found.ids.tolist(), found.image_at) == (ids, () if image_at is None else (image_at,))
    assert supervised == flags


def reference(style: str, conversation: Conversation, library: Library) -> tuple[list[int], list[bool], int | None]:
    """A slow reference: every text between special tokens is encoded as a whole, with and without its answer."""
    continuation = library("\n")

    def encode(text: str, starts: bool) -> list[int]:
        # A newline never merges, so the text after it is encoded without a dummy prefix.
        return library(text) if starts else library("\n" + text)[len(continuation) :]

    template = TEMPLATES[style]
    ids: list[int] = [1]
    flags = [False]
    image_at = None

    def add(prompt: str, answer: str, starts: bool) -> None:
        whole = encode(prompt + answer, starts)
        context = encode(prompt, starts)
        assert whole[: len(context)] == context
        ids.extend(whole)
        flags.extend([False] * len(context) + [True] * (len(whole) - len(context)))
        if style != "plain":
            ids.append(2)
            flags.append(True)

    for number, (question, answer_text) in enumerate(conversation.rounds):
        prompt = template.later_prompt if number else template.first_prompt
        answer = template.answer.replace("{answer}", answer_text)
        head, _, tail = prompt.replace("{system}", template.system).partition("{question}")
        if number and template.bos_between_rounds:
            ids.append(1)
            flags.append(False)
        if number == 0 and conversation.images:
            before, after = template.image.split("{image}")
            if head + before:
                context = encode(head + before, True)
                ids.extend(context)
                flags.extend([False] * len(context))
            image_at = len(ids)
            rest = "" if style == "plain" else after + (f"\n{question}" if question else "") + tail
            add(rest, answer, True)
        else:
            add(head + question + tail, answer, number == 0)
    return ids, flags, image_at


def test_special_tokens_typed_in_a_text_are_text(encoder: Encoder) -> None:
    tokenizer = encoder.tokenizer
    found = encoder.encode([Mark.BOS, Text("</s><s> <unk>", False), Text(" </s>", True), Mark.EOS])
    assert found.ids.tolist().count(tokenizer.eos_id) == 1
    assert found.ids.tolist().count(1) == 1
    assert 0 not in found.ids.tolist()


def test_a_vocabulary_that_merges_across_spaces_is_encoded_as_whole_texts(tmp_path: Path) -> None:
    tokenizer = bpe(
        [*BYTES, "▁", "a", "b", ":", ":▁", ":▁a", "a▁", "a▁b"],
        [(":", "▁"), (":▁", "a"), ("a", "▁"), ("a▁", "b")],
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    encoder = Encoder(load_tokenizer(saved(tmp_path, tokenizer, "<s>")))
    assert encoder.tokenizer.sentencepiece_rule
    assert encoder.tokenizer.splitter is None
    found = encoder.encode([Mark.BOS, Text("b:", False), Text(" a b", True), Mark.EOS])
    tokens = [encoder.tokenizer.tokens[i] for i in found.ids]
    # The token ":▁a" contains the start of the answer, so it is supervised.
    assert tokens == ["<s>", "▁", "b", ":▁a", "▁", "b", "</s>"]
    assert found.supervised == [(3, 7)]


def test_byte_level_bpe_is_encoded_by_the_library(tmp_path: Path) -> None:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = bpe(["<unk>", "</s>", *alphabet, "Ġa", "ab"], [("Ġ", "a"), ("a", "b")])
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    encoder = Encoder(load_tokenizer(saved(tmp_path, tokenizer, None)))
    assert encoder.tokenizer.bos_id is None
    assert not encoder.tokenizer.sentencepiece_rule
    found = encoder.encode([Mark.BOS, Text("é:", False), Text(" ab </s>", True), Mark.EOS])
    tokens = [encoder.tokenizer.tokens[i] for i in found.ids]
    assert tokens == ["Ã", "©", ":", "Ġa", "b", "Ġ", "<", "/", "s", ">", "</s>"]
    assert found.supervised == [(3, 11)]
