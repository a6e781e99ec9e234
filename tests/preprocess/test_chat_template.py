"""`system_prompt_style: chat_template`: a Jinja template gives the rows of the named template, or is refused."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_tokenizers import bpe, saved
from tokenizers import AddedToken, decoders, pre_tokenizers

from preprocess.config import ConfigError, DatasetConfig
from preprocess.conversation import Conversation
from preprocess.rejects import Reason, Rejected
from preprocess.segments import Text
from preprocess.templates import Renderer, check_template, renderer_for
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import Tokenizer, load_tokenizer

HEAD = "{{ '<|im_start|>' + message['role'] + '\\n' }}"
# ChatML, written for these tests: plain, with marked answers, with a generation prompt.
CHATML = (
    "{% for message in messages %}" + HEAD + "{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}" + HEAD + "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
)
USER_AND_ASSISTANT = (
    "{% for message in messages %}{% if message.role != 'system' %}"
    + HEAD
    + ("{{ message.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}")
)
TALK = Conversation([("Why?", "So."), ("How?", "Thus.")], (), False, False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pieces = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "ab", "ĊĊ"]
    tokenizer = bpe(pieces, [("Ġ", "a"), ("a", "b"), ("Ċ", "Ċ")])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return Path(saved(tmp_path_factory.mktemp("tokenizer"), tokenizer, "<s>"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(str(folder))


def renderer_with(
    text: str, tokenizer: Tokenizer, tmp_path: Path, *, system_prompt: str | None = None, in_child: bool = False
) -> Renderer:
    path = tmp_path / "template.jinja"
    path.write_text(text, encoding="utf-8")
    dataset = DatasetConfig(system_prompt_style="chat_template", chat_template=path, system_prompt=system_prompt)
    if in_child:
        check_template(dataset, tokenizer)
    return renderer_for(dataset, tokenizer)


_TEXTS = st.lists(
    st.sampled_from(["a", "b", " ", "\n", "<|im_end|>", "<|im_start|>", "{{ x }}", "{% if %}", "é", "<", "<image>"]),
    max_size=5,
).map("".join)


@pytest.mark.slow
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rounds=st.lists(st.tuples(_TEXTS, _TEXTS.map(lambda text: text.replace("<image>", ""))), min_size=1, max_size=3),
    system=st.none() | _TEXTS.map(lambda text: text.replace("<image>", "")),
)
@pytest.mark.parametrize("text", [CHATML, MARKED], ids=["compared", "marked"])
def test_rows_equal_those_of_the_named_template(
    tokenizer: Tokenizer, tmp_path: Path, text: str, rounds: list[tuple[str, str]], system: str | None
) -> None:
    images = tuple("i" for question, _ in rounds for _ in range(question.count("<image>")))
    talk = Conversation(rounds, images, False, False, system=system, image_token="<image>" if images else "")
    found = Encoder(tokenizer).encode(renderer_with(text, tokenizer, tmp_path).render(talk))
    named = renderer_for(DatasetConfig(system_prompt_style="chatml"), tokenizer)
    expected = Encoder(tokenizer).encode(named.render(talk))
    assert found.ids.tolist() == expected.ids.tolist()
    assert (found.supervised, found.image_at) == (expected.supervised, expected.image_at)


def test_spaces_that_the_generation_prompt_leaves_to_the_model_are_supervised(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}"
        "{% else %}{{ ' ' + m.content | trim + '<|endoftext|>' }}{% endif %}{% endfor %}"
    )
    segments = renderer_with(text, tokenizer, tmp_path).render(TALK._replace(rounds=[("Q", "\n A ")]))
    assert [part for part in segments if isinstance(part, Text)] == [Text("Q", False), Text(" A", True)]
    header = text.replace("' ' + m", "'A: ' + m")
    segments = renderer_with(header, tokenizer, tmp_path).render(TALK)
    supervised = [part.text for part in segments if isinstance(part, Text) and part.supervised]
    assert supervised == ["So.", "Thus."], "the words of a header are the same before any answer"


def test_the_template_of_the_tokenizer_folder_is_used_if_no_file_is_named(folder: Path, tokenizer: Tokenizer) -> None:
    dataset = DatasetConfig(system_prompt_style="chat_template")
    with pytest.raises(ConfigError, match=r"has no chat template, which dataset.system_prompt_style chat_template"):
        renderer_for(dataset, tokenizer)
    path = folder / "chat_template.jinja"
    path.write_text(CHATML)
    try:
        assert renderer_for(dataset, tokenizer).traits.takes_system
    finally:
        path.unlink()


def test_the_date_is_that_of_the_config(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "dated.jinja"
    path.write_text("{{ strftime_now('%d %b %Y') }}" + CHATML)

    def first_text(**keys: object) -> str:
        values = {"system_prompt_style": "chat_template", "chat_template": str(path), **keys}
        first = renderer_for(DatasetConfig.model_validate(values), tokenizer).render(TALK)[0]
        assert isinstance(first, Text)
        return first.text

    assert first_text() == "26 Jul 2024"
    assert first_text(chat_template_date="2025-02-03") == first_text(chat_template_date=datetime.date(2025, 2, 3))
    assert first_text(chat_template_date="2025-02-03") == "03 Feb 2025"


def test_a_system_prompt_is_refused_for_a_template_without_a_system_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    for text in (USER_AND_ASSISTANT, refusing):
        renderer = renderer_with(text, tokenizer, tmp_path)
        assert not renderer.traits.takes_system
        with pytest.raises(
            ConfigError, match="system_prompt is set, but the template 'chat_template' does not support"
        ):
            renderer_with(text, tokenizer, tmp_path, system_prompt="Be brief.")
    renderer = renderer_with(CHATML, tokenizer, tmp_path, system_prompt="Be brief.")
    assert renderer.render(TALK) == renderer.render(TALK._replace(system="Be brief."))


REFUSED = {
    "broken": ("{% for m in messages %}{{ m.content }", "line 1: "),
    "an unknown tag": ("{% form %}", "line 1: Encountered unknown tag 'form'"),
    "no assistant": (CHATML.replace("messages %}", "messages if message.role == 'user' %}"), "text of the assistant"),
    "no user": (CHATML.replace("messages %}", "messages if message.role != 'user' %}"), "text of the user"),
    "another text": (
        CHATML.replace("message['content']", "message['content'] | upper"),
        "it does not reproduce the texts",
    ),
    "escaped text": (CHATML.replace("message['content']", "message['content'] | e"), "it does not reproduce the texts"),
    "no end of turn": (CHATML.replace("<|im_end|>", ""), "not followed by a special token"),
    "an end that is no token": (CHATML.replace("<|im_end|>", "<|fin|>"), "not followed by a special token"),
    "an end that is not marked": (
        MARKED.replace("'<|im_end|>' }}{% endgen", "'' }}{% endgen").replace("{{ '\\n' }}", "{{ '<|im_end|>\\n' }}"),
        "generation %} block does not include the end-of-turn token",
    ),
    "marks elsewhere": (
        MARKED.replace("== 'assistant'", "== 'user'"),
        "generation %} blocks do not contain the answers",
    ),
    "earlier turns": (
        CHATML.replace("{{ message['content']", "{{ ('' if loop.last else 'then: ') + message['content']"),
        "it renders earlier turns differently when a later one is added",
    ),
    "refuses": ("{{ raise_exception('use another') }}", "it reports: use another"),
    "an endless loop": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"),
    "an endless call": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls itself too deeply"),
    "calls that double": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "too many steps",
    ),
    "much output": ("{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "writes more than"),
    "a long text": ("{% set t = 'x' * 1000000000000 %}", "makes a value of more than"),
    "a text that doubles": (
        "{% set n = namespace(t='xx') %}{% for a in range(99) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
        "makes a value of more than",
    ),
    "a filter that widens": ("{{ 'x' | center(1000000000000) }}", "makes a value of more than"),
    "a format that widens": ("{{ '%1000000000d' % 1 }}", "formats text to a width"),
    "a large number": ("{{ 9 ** (9 ** 9) }}", "raises to a large power"),
    "the machine": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsupported_template_is_refused_in_one_sentence(tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    text, reason = REFUSED[name]
    with pytest.raises(ConfigError) as refused:
        renderer_with(text, tokenizer, tmp_path)
    message = str(refused.value)
    assert message.startswith("dataset.system_prompt_style chat_template: the template of ")
    assert reason in message
    assert "\n" not in message
    assert str(tmp_path / "template.jinja") in message


@pytest.mark.slow
def test_a_template_is_first_rendered_in_a_child_process_with_a_time_limit(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert renderer_with(CHATML, tokenizer, tmp_path, in_child=True).traits.takes_system
    with pytest.raises(ConfigError, match="not followed by a special token"):
        renderer_with(REFUSED["no end of turn"][0], tokenizer, tmp_path, in_child=True)
    monkeypatch.setattr("preprocess.templates.jinja.check._SECONDS", 0.01)
    with pytest.raises(ConfigError, match=r"does not terminate within 0.01 seconds"):
        renderer_with(CHATML, tokenizer, tmp_path, in_child=True)


def test_an_error_that_only_one_record_causes_rejects_that_record(tokenizer: Tokenizer, tmp_path: Path) -> None:
    looks = CHATML.replace(
        "{{ message['content']", "{{ ('!' if 'secret' in message['content'] else '') + message['content']"
    )
    short = "{% if messages[0].content | length > 900 %}{{ raise_exception('too long') }}{% endif %}" + CHATML
    splits = CHATML.replace("message['content'] +", "message['content'].split('</think>')[-1] +")
    for text, question, reason in (
        (looks, "sesame", None),
        (short, "x" * 901, Reason.CHAT_TEMPLATE_FAILED),
        (splits, "a</think>b", Reason.CHAT_TEMPLATE_CHANGES_TEXT),
        (CHATML, "a\ufdd2b", Reason.CHAT_TEMPLATE_FAILED),
    ):
        renderer = renderer_with(text, tokenizer, tmp_path)
        assert renderer.render(TALK)
        if reason is None:
            assert renderer.render(TALK._replace(rounds=[(question, "A")]))
            continue
        with pytest.raises(Rejected) as rejected:
            renderer.render(TALK._replace(rounds=[(question, "A")]))
        assert rejected.value.reason is reason


@pytest.mark.parametrize("key", ["chat_template", "chat_template_date"])
def test_keys_of_chat_template_are_refused_with_a_named_template(tokenizer: Tokenizer, key: str) -> None:
    value = "x.jinja" if key == "chat_template" else "2025-01-01"
    dataset = DatasetConfig.model_validate({"system_prompt_style": "chatml", key: value})
    with pytest.raises(
        ConfigError, match=f"dataset.{key} is only used by system_prompt_style chat_template, not 'chatml'"
    ):
        renderer_for(dataset, tokenizer)


def test_a_file_that_is_not_a_template_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, reason in (("absent", "No such file"), ("binary", "not UTF-8 text")):
        dataset = DatasetConfig(system_prompt_style="chat_template", chat_template=tmp_path / name)
        with pytest.raises(ConfigError, match=f"dataset.chat_template .*{name}: .*{reason}"):
            renderer_for(dataset, tokenizer)
