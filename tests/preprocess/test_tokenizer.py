from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import QUICKSTART, needs_shared, shared_folder

from preprocess.config import ConfigError
from preprocess.tokenize.folder import tokenizer_digest
from preprocess.tokenize.tokenizer import load_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(QUICKSTART / "tokenizer", tmp_path / "tokenizer"))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@needs_shared("tokenizers")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken-html", "is an HTML page"),
        ("broken-lfs-pointer", "Git LFS pointer"),
        ("config-without-model", "no tokenizer.json and no tokenizer.model"),
    ],
)
def test_a_broken_folder_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_tokenizer(str(shared_folder("tokenizers") / name))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!doctype html>", "HTML page"),
        (b"", "0 bytes"),
        (b"{}", "no tokenizer"),
    ],
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_broken_model_file_is_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_tokenizer(str(tmp_path))
    assert name in str(error.value)
    if content != b"{}":
        assert words in str(error.value)


@pytest.mark.parametrize(
    ("model", "call", "error"),
    [
        ("tokenizer/tokenizer.json", "tokenizers.Tokenizer", MemoryError()),
        ("tokenizer/tokenizer.json", "orjson.loads", ValueError("Not enough memory to allocate buffer for parsing")),
        ("tokenizer_sentencepiece/tokenizer.model", "sentencepiece.SentencePieceProcessor", MemoryError()),
    ],
)
def test_a_lack_of_memory_is_not_reported_as_a_broken_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, call: str, error: Exception
) -> None:
    def fails(*_: object) -> None:
        raise error

    fails.from_str = fails  # type: ignore[attr-defined]
    shutil.copy(QUICKSTART / model, tmp_path)
    monkeypatch.setattr(call, fails)
    with pytest.raises(ConfigError, match="not enough memory to load it; free some"):
        load_tokenizer(str(tmp_path))


def test_a_vocabulary_without_the_tokens_of_the_config_is_refused(folder: Path) -> None:
    edit_config(folder, eos_token="<|im_end|>")
    with pytest.raises(ConfigError, match=r"eos_token is '<\|im_end\|>', which is not in the vocabulary"):
        load_tokenizer(str(folder))


def test_a_tokenizer_without_eos_is_refused(folder: Path) -> None:
    edit_config(folder, eos_token=None)
    (folder / "special_tokens_map.json").unlink()
    with pytest.raises(ConfigError, match="has no eos_token"):
        load_tokenizer(str(folder))


def test_a_vocabulary_of_three_tokens_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["model"]["vocab"] = {"<unk>": 0, "<s>": 1, "</s>": 2}
    spec["model"]["merges"] = []
    path.write_text(json.dumps(spec))
    with pytest.raises(ConfigError, match="3 pieces"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nope", "a/b/c"])
def test_a_missing_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        load_tokenizer(name)


def test_a_hub_name_that_cannot_be_fetched_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="the Hugging Face hub did not give it"):
        load_tokenizer("nobody/nothing")


def test_pad_defaults_to_unk(folder: Path) -> None:
    edit_config(folder, pad_token=None)
    (folder / "special_tokens_map.json").unlink()
    assert load_tokenizer(str(folder)).pad_id == 0


def test_added_tokens_of_a_sentencepiece_folder_have_their_ids(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(QUICKSTART / "tokenizer_sentencepiece", tmp_path / "tokenizer"))
    size = load_tokenizer(str(folder)).vocab_size
    edit_config(folder, pad_token="<pad>", added_tokens_decoder={str(size): {"content": "<pad>"}})
    tokenizer = load_tokenizer(str(folder))
    assert (tokenizer.pad_id, tokenizer.vocab_size, tokenizer.tokens[size]) == (size, size + 1, "<pad>")


def test_the_digest_changes_only_with_settings_that_determine_ids(folder: Path) -> None:
    digest = tokenizer_digest(str(folder))
    assert digest == load_tokenizer(str(folder)).digest
    edit_config(folder, model_max_length=77, chat_template="x")
    assert tokenizer_digest(str(folder)) == digest
    edit_config(folder, pad_token="</s>")
    assert tokenizer_digest(str(folder)) != digest
