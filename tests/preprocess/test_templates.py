from __future__ import annotations

import pytest
from conftest import QUICKSTART

from preprocess.conversation import Conversation
from preprocess.samples import batch_of
from preprocess.templates import TEMPLATES, Renderer
from preprocess.tokenize.batches import BatchEncoder
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_tokenizer(str(QUICKSTART / "tokenizer")))


@pytest.mark.parametrize("style", sorted(TEMPLATES))
def test_a_kept_empty_answer_trains_the_end_token_alone(encoder: Encoder, style: str) -> None:
    renderer = Renderer(TEMPLATES[style])
    rounds = [("Q1", "")] if renderer.drops_question else [("Q1", ""), ("Q2", "circle"), ("Q3", "")]
    conversation = Conversation(rounds, ("a.png",), image_moved=False, first_turn_skipped=False)
    segments = renderer.render(conversation)
    tokens = encoder.encode(segments)
    trained = [tokens.ids[start:stop].tolist() for start, stop in tokens.supervised]
    tokenizer = encoder.tokenizer
    if renderer.answer_ends_with_eos:
        circle = encoder.encode_text(" circle", False)
        assert trained[0] == trained[2] == [tokenizer.eos_id]
        assert trained[1][-1] == tokenizer.eos_id
        assert trained[1][: len(circle) // 4] == list(memoryview(circle).cast("i"))
    else:
        assert [tokenizer.tokens[id_] for id_ in trained[0]] == ["▁", "<0x0A>"], "the newline, as a text of its own"
    batch, failed = BatchEncoder(encoder).encode([segments])
    assert not failed
    for found, expected in zip(batch, batch_of(tokens), strict=True):
        assert found.tolist() == expected.tolist()
