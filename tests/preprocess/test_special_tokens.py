"""Special tokens come only from templates, never from texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import BYTES, SLOW, bpe, saved
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers

from preprocess.config import ConfigError
from preprocess.samples import batch_of
from preprocess.segments import Mark, Segment, Special, Text
from preprocess.tokenize.batches import BatchEncoder
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import load_tokenizer

SPECIAL = ("<|im_start|>", "<|im_end|>")
NOT_SPECIAL = "<tool_call>"


def with_added(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(NOT_SPECIAL, special=False, normalized=False)])
    return tokenizer


def byte_level() -> tokenizers.Tokenizer:
    tokenizer = bpe(
        ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "ab"], [("Ġ", "a"), ("a", "b")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece_like(first_only: bool) -> tokenizers.Tokenizer:
    tokenizer = bpe([*BYTES, "▁", "a", "b", "▁a"], [("▁", "a")], byte_fallback=True, fuse_unk=True)
    if first_only:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


FAMILIES = {
    "byte_level": byte_level,
    "prefix_behind_each_token": lambda: sentencepiece_like(first_only=False),
    "prefix_at_the_start_only": lambda: sentencepiece_like(first_only=True),
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("tokenizer"), with_added(FAMILIES[request.param]()), "<s>")


@pytest.fixture(scope="module")
def encoder(folder: str) -> Encoder:
    return Encoder(load_tokenizer(folder))


def special(encoder: Encoder, token: str, supervised: bool = False) -> Special:
    found = encoder.tokenizer.require_token(token, "the test")
    return Special(found.id, supervised, found.starts_text)


_TEXTS = st.text(st.sampled_from(["a", "b", " ", "\n", "é", "x"]), min_size=1, max_size=8)


@pytest.mark.slow
@SLOW
@given(question=_TEXTS, answer=_TEXTS)
def test_ids_around_special_tokens_equal_those_of_the_library(
    encoder: Encoder, folder: str, question: str, answer: str
) -> None:
    start, end = SPECIAL
    library = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    expected = library.encode(f"{start}{question}{end}{answer}{end}", add_special_tokens=False).ids
    segments: list[Segment] = [special(encoder, start), Text(question, False), special(encoder, end)]
    segments += [Text(answer, True), special(encoder, end, supervised=True)]
    found = encoder.encode(segments)
    assert found.ids.tolist() == expected
    assert found.supervised == [(expected.index(encoder.tokenizer.added[end].id) + 1, len(expected))]


@pytest.mark.slow
@SLOW
@given(parts=st.lists(st.sampled_from([*SPECIAL, NOT_SPECIAL, "<s>", "</s>", " ", "a", "\n"]), min_size=1, max_size=6))
def test_special_tokens_typed_in_a_text_stay_text(encoder: Encoder, parts: list[str]) -> None:
    segments: list[Segment] = [special(encoder, SPECIAL[0]), Text("".join(parts), False)]
    added = {token.id for token in encoder.tokenizer.added.values()}
    assert added.isdisjoint(encoder.encode(segments).ids.tolist()[1:])


@pytest.mark.slow
@SLOW
@given(data=st.data())
def test_a_batch_gives_the_ids_of_each_separate_record(encoder: Encoder, data: st.DataObject) -> None:
    segment = st.one_of(
        st.builds(Text, _TEXTS, st.booleans()),
        st.sampled_from([special(encoder, SPECIAL[0]), special(encoder, SPECIAL[1], supervised=True)]),
        st.sampled_from([Mark.IMAGE, Mark.IMAGE_TOKEN]),
    )
    records: list[list[Segment]] = data.draw(st.lists(st.lists(segment, max_size=6), min_size=1, max_size=4))
    found, failed = BatchEncoder(encoder).encode(records)
    assert failed == {}
    for number, record in enumerate(records):
        part, alone = found.part(number, number + 1), batch_of(encoder.encode(record))
        assert [array.tolist() for array in part] == [array.tolist() for array in alone]


def test_a_text_after_an_image_token_is_encoded_as_after_an_added_token(encoder: Encoder, folder: str) -> None:
    library = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    library.add_special_tokens(["<image>"])
    expected = library.encode("<|im_start|>a<image>\na b", add_special_tokens=False).ids
    at = expected.index(library.token_to_id("<image>"))
    found = encoder.encode([special(encoder, "<|im_start|>"), Text("a", False), Mark.IMAGE_TOKEN, Text("\na b", False)])
    assert (found.ids.tolist(), found.image_at) == (expected[:at] + expected[at + 1 :], (at,))


def test_a_token_that_the_tokenizer_lacks_is_named(encoder: Encoder, folder: str) -> None:
    with pytest.raises(ConfigError, match=r"has no special token '<.im_stop.>' .did you mean <.im_start.>") as refused:
        encoder.tokenizer.require_token("<|im_stop|>", "dataset.system_prompt_style chatml")
    assert folder in str(refused.value)
    assert "which dataset.system_prompt_style chatml needs" in str(refused.value)


def test_a_pickled_tokenizer_reads_special_tokens_in_texts_as_text(encoder: Encoder) -> None:
    import pickle

    other: Any = pickle.loads(pickle.dumps(encoder.tokenizer.backend))
    assert other.encode(NOT_SPECIAL) == encoder.tokenizer.backend.encode(NOT_SPECIAL)
