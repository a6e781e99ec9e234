from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import tokenizers

from preprocess.tokenize.tokenizer import Tokenizer, load_tokenizer

TYPED = "a <|end|> b"


def byte_level(folder: Path) -> Tokenizer:
    """A byte-level BPE whose only special token is `<|end|>`."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE({piece: id_ for id_, piece in enumerate(alphabet)}, [])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    return load_tokenizer(str(folder))


def test_a_special_token_typed_in_a_text_stays_text_in_a_spawned_worker(tmp_path: Path) -> None:
    backend = byte_level(tmp_path).backend
    here = backend.encode(TYPED)
    assert len(here) == len(TYPED)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(backend.encode, [TYPED]) == here
        assert pool.apply(backend.encode_with_starts, [TYPED]) == backend.encode_with_starts(TYPED)
