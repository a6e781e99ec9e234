"""Words that are encoded together have the ids that each has alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import FOLDERS, SLOW, TEXTS

from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.joined import JoinedWords
from preprocess.tokenize.tokenizer import load_tokenizer

_WORDS = st.lists(TEXTS.map(lambda text: text.replace(" ", "")), max_size=12, unique=True)


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return Encoder(load_tokenizer(str(request.param)))


@pytest.mark.slow
@SLOW
@given(words=_WORDS)
def test_words_encoded_together_have_the_ids_of_each_word(encoder: Encoder, words: list[str]) -> None:
    tokenizer = encoder.tokenizer
    if tokenizer.splitter is None:
        pytest.skip("this vocabulary cannot be cut at blanks")
    encoded = JoinedWords(tokenizer, tokenizer.splitter).encode(words)
    assert set(tokenizer.splitter.joinable(words)) == encoded.keys()
    for word, ids in encoded.items():
        assert ids == encoder.encode_word(word, after_space=True), word


def test_a_word_that_contains_the_space_symbol_of_the_vocabulary_is_left_out() -> None:
    tokenizer = load_tokenizer(str(FOLDERS[0]))
    assert tokenizer.splitter is not None
    assert JoinedWords(tokenizer, tokenizer.splitter).encode(["a▁b", "cat", "dog"]).keys() == {"cat", "dog"}
