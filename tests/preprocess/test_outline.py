"""Chat templates rendered from an outline give the same ids as those rendered in separate segments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.conversation import Conversation
from preprocess.segments import ConstantSegments, Mark, Special, Text
from preprocess.templates.chat import ChatRenderer, ChatTemplate, Slot, Token
from preprocess.templates.named import CHAT_TEMPLATES
from preprocess.templates.outline import Placeholder, make_outline
from preprocess.tokenize.batches import BatchEncoder
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import AddedToken, Tokenizer, load_tokenizer

TEXTS = st.lists(st.sampled_from(["a", "word", " ", "\n", "\t", "  ", ".", "é", "\u3000"]), max_size=6).map("".join)
QUESTIONS = st.lists(TEXTS, min_size=1, max_size=3).map("<image>".join)


def tokens_of(template: ChatTemplate) -> list[str]:
    pieces = [
        *template.opening,
        *template.user,
        *template.answer_header,
        *template.answer,
        *template.after_answer,
        *template.closing,
        *(template.system or ()),
    ]
    return list(dict.fromkeys(piece.spelling for piece in pieces if isinstance(piece, Token)))


def make_tokenizer(folder: Path, tokens: list[str], **takes: bool) -> Tokenizer:
    """Byte-level BPE with the special tokens, which may strip the spaces beside them (`lstrip`, `rstrip`)."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({piece: id_ for id_, piece in enumerate(alphabet)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False, **takes) for token in tokens])
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(f'{{"eos_token": "{tokens[-1]}"}}')
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module", params=[(style, strip) for style in CHAT_TEMPLATES for strip in (False, True)])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    style, strips = request.param
    template = CHAT_TEMPLATES[style]
    tokenizer = make_tokenizer(tmp_path_factory.mktemp("made"), tokens_of(template), rstrip=strips)
    return ChatRenderer(template, tokenizer, None, style), Encoder(tokenizer)


@pytest.mark.slow
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rounds=st.lists(st.tuples(QUESTIONS, TEXTS), min_size=1, max_size=3),
    system=st.none() | TEXTS,
    in_place=st.booleans(),
)
def test_an_outline_gives_the_ids_of_separate_segments(
    made: Any, rounds: list[tuple[str, str]], system: str | None, in_place: bool
) -> None:
    renderer, encoder = made
    token = "<image>" if in_place else ""
    conversation = Conversation(rounds, (), False, False, image_token=token, system=system)
    segments, expected = renderer.render(conversation), renderer._built(conversation)
    assert any(outline is not None for outline in renderer._outlines.values())
    sample = encoder.encode(expected)
    expanded = [part for found in segments for part in getattr(found, "segments", [found])]
    for found in (segments, expanded):
        made_of = encoder.encode(found)
        assert made_of.ids.tolist() == sample.ids.tolist()
        assert made_of.supervised == sample.supervised
        assert made_of.image_at == sample.image_at
    batch, failed = BatchEncoder(encoder).encode([segments, expected])
    assert failed == {}
    assert batch.part(0, 1).ids.tolist() == batch.part(1, 2).ids.tolist() == sample.ids.tolist()
    assert batch.part(0, 1).supervised.tolist() == batch.part(1, 2).supervised.tolist()


@pytest.mark.parametrize("style", CHAT_TEMPLATES)
def test_a_template_with_lstrip_tokens_has_no_outline(tmp_path: Path, style: str) -> None:
    template = CHAT_TEMPLATES[style]
    renderer = ChatRenderer(template, make_tokenizer(tmp_path, tokens_of(template), lstrip=True), None, style)
    conversation = Conversation([("a  ", "b \n")], (), False, False)
    assert renderer.render(conversation) == renderer._built(conversation)
    assert set(renderer._outlines.values()) == {None}


def test_constants_between_special_tokens_are_merged() -> None:
    start, end = Special(1), Special(2, supervised=True)
    token = AddedToken(1)
    parts = [((start, token), False), ("user\n", False), (None, False), ((start, token), False), ("a", False)]
    parts += [((start, token), False), ("b\n", False), (None, True), ((end, token), True)]
    outline = make_outline(parts)
    assert outline is not None
    assert outline[:2] == (start, Placeholder(False, "user\n"))
    assert isinstance(outline[2], ConstantSegments)
    assert outline[2].segments == (start, Text("a", False, True), start)
    assert outline[3:] == (Text("b\n", False, True), Placeholder(True), end)


def test_there_is_no_outline_where_one_text_changes_the_ids_of_the_next() -> None:
    takes = AddedToken(1, rstrip=True)
    parts = [((Special(1), takes), False), (None, False), ("\n", True)]
    assert make_outline(parts) is None
    assert make_outline([(None, False), (None, True)]) is None


def test_a_template_with_adjacent_text_slots_renders_both_texts(tmp_path: Path) -> None:
    end = Token("<end>")
    template = ChatTemplate(user=(Slot.TEXT,), answer=(Slot.TEXT, end))
    renderer = ChatRenderer(template, make_tokenizer(tmp_path, ["<end>"]), None, "made up")
    found = renderer.render(Conversation([("q", "a")], (), False, False))
    assert [part.text for part in found if isinstance(part, Text)] == ["q", "a"]


@pytest.mark.parametrize("lstrip", [False, True])
def test_a_template_text_that_contains_the_image_token_is_not_an_image(tmp_path: Path, lstrip: bool) -> None:
    template = CHAT_TEMPLATES["chatml_qwen"]
    renderer = ChatRenderer(template, make_tokenizer(tmp_path, tokens_of(template), lstrip=lstrip), None, "chatml_qwen")
    conversation = Conversation([("a You b", "You")], ("x",), False, False, image_token="You")
    segments = renderer.render(conversation)
    assert segments.count(Mark.IMAGE_TOKEN) == 1
    assert Encoder(load_tokenizer(str(tmp_path))).encode(segments).image_at
