"""Texts and tokenizers for tests of ids: realistic texts, folders of tokenizers, and small new tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from conftest import QUICKSTART, shared_folder
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# Parts of realistic texts: words, runs of spaces, newlines, special tokens as text, other scripts, bytes.
_PARTS = st.sampled_from(
    [
        *("the", "red circle", "USER:", "ASSISTANT:", "[INST]", "123", "a.b,c", "def f():"),
        *("the.", "circle,", "1?", "it's", "a.", "_.", "é.", ".", ",", "'"),
        *(" ", "  ", "     ", "\n", "\n\n", "\t", "\r\n", "▁", "▁▁"),
        *("</s>", "<s>", "<unk>", "<0x0A>", "<image>", "你好", "é", "🙂", "\x00", "\x7f", "\ue000"),
    ]
)
TEXTS = st.one_of(
    st.lists(_PARTS, max_size=12).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
FOLDERS = [QUICKSTART / "tokenizer", QUICKSTART / "tokenizer_sentencepiece"] + [
    shared_folder("tokenizers") / name
    for name in ("llama2-json", "llama2-sentencepiece")
    if shared_folder("tokenizers").is_dir()
]
SLOW = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def bpe(vocabulary: list[str], merges: list[tuple[str, str]], **options: Any) -> tokenizers.Tokenizer:
    model = tokenizers.models.BPE({p: i for i, p in enumerate(vocabulary)}, merges, unk_token="<unk>", **options)
    return tokenizers.Tokenizer(model)


def saved(tmp_path: Path, tokenizer: tokenizers.Tokenizer, bos: str | None) -> str:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    bos_line = f'"bos_token": "{bos}", ' if bos else ""
    (tmp_path / "tokenizer_config.json").write_text(f'{{{bos_line}"eos_token": "</s>", "unk_token": "<unk>"}}')
    return str(tmp_path)


BYTES = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
