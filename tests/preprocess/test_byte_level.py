"""Byte-level BPE, split at spaces and newlines, has the ids of the `tokenizers` library, with and without tiktoken."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from conftest import shared_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.segments import Mark, Segment, Text
from preprocess.tokenize import byte_level, joined, word_table
from preprocess.tokenize import encoder as encoder_module
from preprocess.tokenize.batches import BatchEncoder
from preprocess.tokenize.byte_level import ByteLevelBackend, byte_alphabet, is_version_independent
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.splitters import PatternSplitter, pattern_splitter
from preprocess.tokenize.tokenizer import Tokenizer, load_tokenizer

PATTERNS = {
    "gpt2": None,
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
REAL = [name for name in ("llama3", "qwen2_5", "mistral_tekken") if shared_folder("tokenizers").is_dir()]
_PARTS = st.sampled_from(
    [
        *("the", "red circle", "USER:", "123", "1234567", "a.b,c", "def f():", "the.", "1?", "it's", "I'LL,", "x-y"),
        *("_.", "é.", ".", ",", "'", "'S", "'ſ", "K", "!\n", "\n/", "//", "/x", "3.14", "don't.", "\u212a"),
        *(
            " ",
            "  ",
            "    ",
            "\n",
            "\n\n",
            "\t",
            "\r\n",
            "\x1c",
            "\x85",
            "\u00a0",
            "\u2028",
            "\u3000",
            "\u180e",
            "\u200b",
        ),
        *(
            "▁",
            "</s>",
            "<|end|>",
            "<tool_call>",
            "你好，世界。",
            "日本語ー・。です",
            "한국어.",
            "Привет,мир ",
            "e\u0301",
        ),
        *("🙂", "\x00", "Ａ", "कि", "ё ", "\U0001fae8", "\ue000"),
    ]
)
TEXTS = st.one_of(
    st.lists(_PARTS, max_size=14).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)


def train(folder: Path, pattern: str | None) -> str:
    """A byte-level BPE trained on words and runs of white space, with one special and one ordinary added token."""
    pre = tokenizers.pre_tokenizers
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    if pattern is None:
        tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    else:
        split = pre.Split(tokenizers.Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    rng = random.Random(0)
    words = [
        "the",
        "red",
        "circle",
        "it's",
        "a.b,c",
        "你好，世界。",
        "\n\n",
        "!\n\n",
        " \t",
        "   ",
        "1234",
        "./x",
        "\n/",
    ]
    corpus = [" ".join(rng.choices(words, k=20)) + "".join(rng.choices(words, k=20)) for _ in range(300)]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700, show_progress=False, initial_alphabet=sorted(byte_alphabet()), special_tokens=["<|end|>"]
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens(["<tool_call>"])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return str(folder)


@pytest.fixture(scope="module", params=[*PATTERNS, *REAL])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    name: str = request.param
    if name in PATTERNS:
        return train(tmp_path_factory.mktemp("trained") / name, PATTERNS[name])
    return str(shared_folder("tokenizers") / name)


@pytest.fixture(scope="module")
def tokenizer(folder: str) -> Tokenizer:
    found = load_tokenizer(folder)
    assert isinstance(found.splitter, PatternSplitter)
    return found


@pytest.fixture(scope="module")
def library(folder: str) -> Any:
    """The pipeline of the library without its added tokens."""
    spec = json.loads(Path(folder, "tokenizer.json").read_text(encoding="utf-8"))
    return tokenizers.Tokenizer.from_str(json.dumps({**spec, "added_tokens": []}))


@pytest.fixture(scope="module", params=["library", "tiktoken"])
def encoder(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Iterator[Encoder]:
    backend = tokenizer.backend
    assert isinstance(backend, ByteLevelBackend)
    if request.param == "tiktoken":
        assert backend._pattern is not None
        backend._tiktoken = byte_level.tiktoken_encoding(backend._tokenizer, backend._pattern)
        assert backend._tiktoken is not None
    yield Encoder(tokenizer)
    backend._tiktoken = None


@pytest.fixture(scope="module")
def batches(encoder: Encoder) -> BatchEncoder:
    return BatchEncoder(encoder)


@pytest.mark.slow
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=3), at=st.integers(0, 200))
def test_cut_texts_have_the_ids_of_the_library(
    encoder: Encoder, batches: BatchEncoder, library: Any, texts: list[str], at: int
) -> None:
    expected = [library.encode(text, add_special_tokens=False).ids for text in texts]
    assert [encoder.encode([Mark.IMAGE, Text(text, False)]).ids.tolist() for text in texts] == expected
    found, failed = batches.encode([[Mark.IMAGE, Text(text, False)] for text in texts])
    assert failed == {}
    assert [found.part(i, i + 1).ids.tolist() for i in range(len(texts))] == expected
    for text, ids in zip(texts, expected, strict=True):
        segments: list[Segment] = [Mark.IMAGE, Text(text[:at], False), Text(text[at:], True)]
        assert encoder.encode(segments).ids.tolist() == batches.encode([segments])[0].ids.tolist() == ids


@pytest.mark.slow
def test_each_entry_of_the_vocabulary_has_the_ids_of_the_library(
    encoder: Encoder, batches: BatchEncoder, library: Any
) -> None:
    """Decode and encode each entry that is a text: by the library, one by one, and in batches."""
    alphabet = byte_alphabet()
    texts = []
    for piece in library.get_vocab(with_added_tokens=False):
        try:
            texts.append(bytes(alphabet[char] for char in piece).decode())
        except (KeyError, UnicodeDecodeError):  # a control token of the vocabulary, or a part of a character
            continue
    assert len(texts) > 400
    texts = texts[:: max(1, len(texts) // 30_000)]
    expected = [found.ids for found in library.encode_batch_fast(texts, add_special_tokens=False)]
    found, failed = batches.encode([[Mark.IMAGE, Text(text, False)] for text in texts])
    assert failed == {}
    ids = found.ids.tolist()
    assert [ids[start:end] for start, end in pairwise(found.offsets.tolist())] == expected


@pytest.mark.slow
def test_added_tokens_typed_in_a_text_stay_text(tokenizer: Tokenizer) -> None:
    typed = f"a {tokenizer.tokens[tokenizer.eos_id]} b<tool_call>c<|im_end|>"
    found = Encoder(tokenizer).encode([Mark.IMAGE, Text(typed, False)])
    pieces = [tokenizer.tokens[id_] for id_ in found.ids.tolist()]
    assert "".join(pieces).replace("Ġ", " ") == typed
    assert tokenizer.eos_id not in found.ids
    assert {"<tool_call>", "<|im_end|>"}.isdisjoint(pieces)


def test_tiktoken_is_set_up_after_many_words_and_is_not_pickled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(byte_level, "_WORDS_BEFORE_TIKTOKEN", 3)
    backend = load_tokenizer(train(tmp_path, PATTERNS["llama3"])).backend
    assert isinstance(backend, ByteLevelBackend)
    words = [" the", " red", " circle", " it's", "a.b,c"]
    before = [backend._tokenizer.encode(word, add_special_tokens=False).ids for word in words]
    assert [backend.encode(word) for word in words] == before
    assert backend._tiktoken is not None
    again = pickle.loads(pickle.dumps(backend))
    assert again._tiktoken is None
    assert [again.encode(word) for word in words] == before


def test_tiktoken_is_not_used_for_a_vocabulary_on_which_it_differs(tmp_path: Path) -> None:
    """The order of merges differs from that of ids: the library follows the merges, tiktoken the ids."""
    folder = train(tmp_path, PATTERNS["llama3"])
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    spec["model"]["merges"].reverse()
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    backend = load_tokenizer(folder).backend
    assert isinstance(backend, ByteLevelBackend)
    assert byte_level.tiktoken_encoding(backend._tokenizer, str(PATTERNS["llama3"])) is None


def test_tiktoken_is_not_used_for_a_vocabulary_without_all_bytes(tmp_path: Path) -> None:
    train(tmp_path, PATTERNS["llama3"])
    spec = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    del spec["model"]["vocab"]["Ā"]
    library = tokenizers.Tokenizer.from_str(json.dumps(spec))
    assert byte_level.tiktoken_encoding(library, str(PATTERNS["llama3"])) is None


@pytest.mark.parametrize(
    ("text", "stable"),
    [("abc é 你好 ё", True), ("\U0001fae8", False), ("e\u0301", False), ("'ſ", False), ("\u212a", False), ("", True)],
)
def test_characters_that_unicode_versions_may_class_differently_go_to_the_library(text: str, stable: bool) -> None:
    assert is_version_independent(text) is stable


def _pipeline(**changes: Any) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": PATTERNS["llama3"]}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_]},
        "model": {"type": "BPE"},
        **changes,
    }


def _split(**changes: Any) -> dict[str, Any]:
    steps = _pipeline()["pre_tokenizer"]["pretokenizers"]
    return {"type": "Sequence", "pretokenizers": [{**steps[0], **changes}, steps[1]]}


def test_known_pipelines_are_split() -> None:
    assert pattern_splitter(_pipeline()) == PatternSplitter(str(PATTERNS["llama3"]), newlines=True)
    assert pattern_splitter(_pipeline(normalizer={"type": "NFC"})) is not None
    gpt2 = pattern_splitter(_pipeline(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False}))
    assert gpt2 is not None
    assert not gpt2.newlines


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "NFKC"}},
        {"normalizer": {"type": "Lowercase"}},
        {"model": {"type": "Unigram"}},
        {"model": {"type": "BPE", "dropout": 0.1}},
        {"model": {"type": "BPE", "continuing_subword_prefix": "##"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}},
        {"pre_tokenizer": _split(behavior="MergedWithPrevious")},
        {"pre_tokenizer": _split(invert=True)},
        {"pre_tokenizer": _split(pattern={"String": " "})},
        {"pre_tokenizer": _split(pattern={"Regex": r"\p{L}+ \p{L}+|\s+"})},
        {"pre_tokenizer": _split(pattern={"Regex": r".+"})},
    ],
)
def test_other_pipelines_are_left_to_the_library(changes: dict[str, Any]) -> None:
    assert pattern_splitter(_pipeline(**changes)) is None


@pytest.mark.slow
def test_many_new_words_have_the_ids_of_the_library_while_caches_overflow_and_tiktoken_takes_over(
    folder: str, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(byte_level, "_WORDS_BEFORE_TIKTOKEN", 300)
    monkeypatch.setattr(encoder_module, "_MAX_CACHED", 40)
    monkeypatch.setattr(word_table, "_MAX_WORDS", 60)
    monkeypatch.setattr(joined, "_WORDS_PER_CALL", 7)
    loaded = load_tokenizer(folder)
    assert isinstance(loaded.backend, ByteLevelBackend)
    batches = BatchEncoder(Encoder(loaded))
    rng = random.Random(0)
    scripts = ["abcdefgh", "абвгд", "αβγδ", "你好世界", "가나다라", "é.,!'", "e\u0301\u212a🫨", "\u3000\n▁"]
    for round_ in range(12):
        texts = [
            " ".join("".join(rng.choices(rng.choice(scripts), k=rng.randint(1, 9))) for _ in range(30))
            for _ in range(4)
        ]
        found, failed = batches.encode([[Mark.IMAGE, Text(f"the red circle {text}", False)] for text in texts])
        assert failed == {}
        expected = [library.encode(f"the red circle {text}", add_special_tokens=False).ids for text in texts]
        assert [found.part(i, i + 1).ids.tolist() for i in range(len(texts))] == expected, round_
    assert loaded.backend._tiktoken is not None
