from __future__ import annotations

import pytest
from conftest import QUICKSTART

from preprocess.config import ConfigError, DatasetConfig
from preprocess.conversation import Conversation
from preprocess.samples import batch_of
from preprocess.segments import Mark, Text
from preprocess.templates import TEMPLATES, LlavaRenderer, check_template, renderer_for
from preprocess.tokenize.batches import BatchEncoder
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_tokenizer(str(QUICKSTART / "tokenizer")))


@pytest.mark.parametrize("style", sorted(TEMPLATES))
def test_a_kept_empty_answer_supervises_only_the_end_token(encoder: Encoder, style: str) -> None:
    renderer = LlavaRenderer(TEMPLATES[style])
    rounds = [("Q1", "")] if renderer.traits.only_one_round else [("Q1", ""), ("Q2", "circle"), ("Q3", " ")]
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


TALK = Conversation([("Why?", "So."), ("How?", "Thus.")], (), False, False)


@pytest.mark.parametrize("style", sorted(set(TEMPLATES) - {"plain", "mistral_instruct"}))
def test_the_system_text_of_config_or_record_replaces_that_of_the_template(encoder: Encoder, style: str) -> None:
    def texts(conversation: Conversation, system_prompt: str | None = None) -> str:
        dataset = DatasetConfig(system_prompt_style=style, system_prompt=system_prompt)
        segments = renderer_for(dataset, encoder.tokenizer).render(conversation)
        return "".join(part.text if isinstance(part, Text) else f"[{part}]" for part in segments)

    default = TEMPLATES[style].system
    plain = texts(TALK)
    assert plain.count(default) == 1
    assert texts(TALK, "Be brief.") == plain.replace(default, "Be brief.")
    assert texts(TALK._replace(system="Be kind."), "Be brief.") == plain.replace(default, "Be kind.")
    assert texts(TALK._replace(system=" \n"), "Be brief.") == texts(TALK, "Be brief.")
    with_image = TALK._replace(images=("a.png",))
    assert texts(with_image._replace(system="Be kind.")) == texts(with_image).replace(default, "Be kind.")


def test_several_images_stay_in_place_with_the_templates_of_llava() -> None:
    rounds = [("<image>\nWhat? <image>", "This."), ("And <image>?", "That.")]
    talk = Conversation(rounds, ("a", "b", "c"), False, False, image_token="<image>")
    renderer = LlavaRenderer(TEMPLATES["v1_mmtag"])
    shown = "".join(
        part.text if isinstance(part, Text) else {Mark.IMAGE: "<-200>"}.get(part, "") if isinstance(part, Mark) else ""
        for part in renderer.render(talk)
    ).removeprefix(TEMPLATES["v1_mmtag"].system)
    image = "<Image><-200></Image>"
    assert shown == (f" USER: {image}\nWhat? {image} ASSISTANT: This.USER: And {image}? ASSISTANT: That.")


@pytest.mark.parametrize("style", ["vicuna_v1", "llama_2", "mistral_instruct"])
def test_a_configured_end_token_replaces_eos(encoder: Encoder, style: str) -> None:
    tokenizer = encoder.tokenizer
    usual = encoder.encode(renderer_for(DatasetConfig(system_prompt_style=style), tokenizer).render(TALK))
    dataset = DatasetConfig(system_prompt_style=style, end_token="<unk>")
    other = encoder.encode(renderer_for(dataset, tokenizer).render(TALK))
    unk = tokenizer.added["<unk>"].id
    assert other.ids.tolist() == [unk if id_ == tokenizer.eos_id else id_ for id_ in usual.ids.tolist()]
    assert other.supervised == usual.supervised
    assert unk in other.ids


def test_an_unknown_template_is_refused_with_the_most_similar_name(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match=r"'vicuna_v2' \(did you mean vicuna_v1\?\); the templates"):
        renderer_for(DatasetConfig(system_prompt_style="vicuna_v2"), encoder.tokenizer)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"append_eos": True, "system_prompt_style": "vicuna_v1"}, "already end with EOS"),
        (
            {"append_eos": True, "system_prompt_style": "chatml"},
            "append_eos is set, but the template 'chatml' has its own",
        ),
        (
            {"end_token": "<unk>", "system_prompt_style": "gemma"},
            "end_token is set, but the template 'gemma' has its own",
        ),
        ({"end_token": "<unk>", "system_prompt_style": "plain"}, "answers of 'plain' end with a newline"),
        ({"end_token": "<eos>", "system_prompt_style": "vicuna_v1"}, "no special token '<eos>'"),
        ({"system_prompt": "Hi", "system_prompt_style": "plain"}, "'plain' does not support system texts"),
        ({"system_prompt": "Hi", "system_prompt_style": "mistral_instruct"}, "does not support system texts"),
        ({"system_prompt": "Hi", "system_prompt_style": "gemma"}, "'gemma' does not support system texts"),
        ({"system_prompt_style": "chatml"}, r"no special token '<\|im_start\|>'.*_style chatml needs"),
        ({"system_prompt_style": "llama_3"}, r"no special token '<\|begin_of_text\|>'"),
    ],
)
def test_a_key_that_the_template_does_not_use_is_refused(
    encoder: Encoder, keys: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        renderer_for(DatasetConfig.model_validate(keys), encoder.tokenizer)


@pytest.mark.parametrize("token", ["<s>", "</s>"])
def test_an_image_token_that_begins_or_ends_samples_is_refused(encoder: Encoder, token: str) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.image_token is '.*', the BOS or EOS token of"):
        check_template(DatasetConfig(system_prompt_style="plain", image_token=token), encoder.tokenizer)


def test_append_eos_adds_eos_to_the_captions_of_plain(encoder: Encoder) -> None:
    renderer = renderer_for(DatasetConfig(system_prompt_style="plain", append_eos=True), encoder.tokenizer)
    found = encoder.encode(renderer.render(Conversation([("", "a cat")], ("a.png",), False, False)))
    assert found.ids[-1] == encoder.tokenizer.eos_id
