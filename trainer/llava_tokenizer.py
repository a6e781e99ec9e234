"""Prepare the tokenizer files for the LLaVA authors' code, whose slow `LlamaTokenizer` reads `tokenizer.model`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from preprocess.config import ConfigError
from preprocess.tokenize.tokenizer import load_tokenizer
from trainer.llava_layout import LayoutError, read_json, write_json
from trainer.processor import TOKENIZER_FILES
from trainer.prompt_tokenizer import IMAGE_TOKEN

_COPIED = (*TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
# Keys of `tokenizer_config.json` that transformers 4 does not know, and those that a LlavaProcessor adds.
_UNKNOWN_KEYS = ("backend", "image_token", "processor_class", "extra_special_tokens", "model_specific_special_tokens")


def check_tokenizer(given: Path, folder: Path, text_rows: int) -> None:
    """Refuse a tokenizer that the authors' code cannot load, or that is not the model's.

    Args:
        given: the folder of `--tokenizer`.
        folder: folder of the model; if it has no tokenizer, only the number of tokens is compared.
        text_rows: vocabulary size in the authors' code.

    Raises:
        LayoutError: the tokenizer does not match; the message says why.
    """
    if not (given / "tokenizer.model").is_file():
        raise LayoutError(
            f"--tokenizer {given}: has no tokenizer.model, which the LLaVA authors' code loads; give the folder of the "
            "text model as it was published"
        )
    tokens = _tokens(given)
    if len(tokens) > text_rows:
        raise LayoutError(
            f"--tokenizer {given}: has {len(tokens)} tokens, but the model has rows for {text_rows}; give the "
            "tokenizer of the text model"
        )
    own = _tokens(folder) if any((folder / name).is_file() for name in TOKENIZER_FILES) else tokens
    for id_, (ours, theirs) in enumerate(zip(own[:text_rows], tokens, strict=False)):
        if ours != theirs:
            raise LayoutError(
                f"--tokenizer {given}: id {id_} is {theirs!r}, but {ours!r} in the tokenizer of {folder}; give the "
                "tokenizer of the text model"
            )


def copy_tokenizer(source: Path, target: Path, text_rows: int) -> str | None:
    """Copy the files without the image token, for which the authors' code would create a random embedding row.

    Returns:
        a warning if the files are not sufficient for the authors' code, else None.
    """
    for name in _COPIED:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    path = target / "tokenizer.json"
    if path.exists():
        document = read_json(path)
        added = document.get("added_tokens") or []
        document["added_tokens"] = [
            token for token in added if not (token["content"] == IMAGE_TOKEN and token["id"] >= text_rows)
        ]
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    path = target / "tokenizer_config.json"
    if path.exists():
        document = read_json(path)
        decoder = document.get("added_tokens_decoder") or {}
        decoder.pop(next((key for key, token in decoder.items() if token["content"] == IMAGE_TOKEN), ""), None)
        for key in _UNKNOWN_KEYS:
            document.pop(key, None)
        if document.get("tokenizer_class") == "TokenizersBackend":
            document["tokenizer_class"] = "LlamaTokenizer"
        write_json(path, document)
    if (target / "tokenizer.model").exists():
        return None
    return (
        f"{source} has no tokenizer.model, so the LLaVA authors' code cannot load the tokenizer; copy the "
        "tokenizer.model of the text model into the folder of the weights, or convert again with --tokenizer FOLDER"
    )


def _tokens(folder: Path) -> list[str]:
    """Return the token of each id, without an image token at the end."""
    try:
        tokens = list(load_tokenizer(str(folder)).tokens)
    except ConfigError as error:
        raise LayoutError(str(error).replace("processor.tokenizer_type", "--tokenizer")) from None
    return tokens[:-1] if tokens[-1] == IMAGE_TOKEN else tokens
