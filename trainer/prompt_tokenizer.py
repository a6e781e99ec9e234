"""A tokenizer of transformers that gives a prompt the ids that rows have: what is saved beside a model.

In rows of the SentencePiece family a text begins with `▁` at the start of the row and after the image, and nowhere
else (`Encoder.encode` of `preprocess/tokenize/encoder.py`, which follows the LLaVA authors' `tokenizer_image_token`).
transformers 5 builds every `LlamaTokenizer` so that only the start of the prompt has it. Its class `TokenizersBackend`
(`PreTrainedTokenizerFast`) takes `tokenizer.json` as it stands, so the rule can be written there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from preprocess.config import ConfigError
from preprocess.tokenize.cuts import BLANK
from preprocess.tokenize.folder import resolve_folder
from preprocess.tokenize.tokenizer import START_OF_TEXT
from preprocess.tokenize.tokenizer import load_tokenizer as load_row_tokenizer
from trainer.params_file import ParamsError
from trainer.pretrained import load_tokenizer

IMAGE_TOKEN = "<image>"
_KEPT = (
    *("bos_token", "eos_token", "unk_token", "pad_token"),
    *("model_max_length", "padding_side", "truncation_side", "chat_template", "clean_up_tokenization_spaces"),
)


def load_prompt_tokenizer(source: str, key: str, *, images_begin_texts: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name, for prompts with `<image>`.

    Args:
        source: folder or hub name.
        key: the params key or argument that named it, for messages.
        images_begin_texts: as in rows of the templates of LLaVA 1.5. Else `<image>` is an added token like others, and
            BOS is the template's to write.

    Returns:
        With `<image>` as its last token, where it did not know it.

    Raises:
        ParamsError: there is none, or rows cannot be written with it.
    """
    tokenizer = load_tokenizer(source, key)
    try:
        rows = load_row_tokenizer(source)
        folder = resolve_folder(source)
    except ConfigError as error:
        raise ParamsError(str(error).replace("processor.tokenizer_type", key)) from None
    if not images_begin_texts:
        tokenizer = _as_it_stands(tokenizer, folder)
    elif rows.dummy_prefix:
        tokenizer = _with_prefix_after_image(tokenizer, _merge_scores(folder))
    if images_begin_texts and rows.bos_id is not None and tokenizer("").input_ids != [rows.bos_id]:
        # Every row begins with it, whatever the folder says of prompts.
        tokenizer.add_bos_token, tokenizer.add_eos_token = True, False
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    return tokenizer


def _as_it_stands(tokenizer: PreTrainedTokenizerBase, folder: Path) -> PreTrainedTokenizerBase:
    """With the pipeline of `tokenizer.json`, which transformers 5 builds anew for some classes (Phi-3's, Mistral's)."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return tokenizer
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_file(str(path)),
        **{name: getattr(tokenizer, name, None) for name in _KEPT},
    )


def image_token_id(tokenizer: PreTrainedTokenizerBase | None) -> int | None:
    """The id of `<image>`, None without a tokenizer."""
    return None if tokenizer is None else int(tokenizer.get_vocab()[IMAGE_TOKEN])


def _with_prefix_after_image(tokenizer: PreTrainedTokenizerBase, scores: list[float] | None) -> PreTrainedTokenizerBase:
    """`▁` at the start of the prompt and after `<image>`, not after other special tokens.

    `tokenizers` cuts a prompt at the tokens that are not `normalized`, gives each part to the normaliser, and then
    looks for the other tokens in what comes out. So `<image>` begins a new text and `</s>` does not. The other tokens
    go through the normaliser too, which must leave them as they are.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer")  # noqa: B009, the base class does not declare it
    spec: dict[str, Any] = json.loads(backend.to_str())
    if scores is not None:
        _sort_merges(spec["model"], scores)
    for token in spec["added_tokens"]:
        token["normalized"] = token["content"] != IMAGE_TOKEN
    others = "|".join(re.escape(token["content"]) for token in spec["added_tokens"] if token["normalized"])
    spec["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Replace", "pattern": {"Regex": rf"{START_OF_TEXT}(?!(?:{others})?\z)"}, "content": BLANK},
            {"type": "Replace", "pattern": {"String": " "}, "content": BLANK},
        ],
    }
    spec["pre_tokenizer"] = None
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        **{name: getattr(tokenizer, name, None) for name in _KEPT},
    )


def _merge_scores(folder: Path) -> list[float] | None:
    """The score of each piece where transformers makes the merges out of a `tokenizer.model`."""
    if (folder / "tokenizer.json").is_file():
        return None
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return [processor.GetScore(id_) for id_ in range(processor.GetPieceSize())]


def _sort_merges(model: dict[str, Any], scores: list[float]) -> None:
    """Put merges in the order of the pieces' scores, as in Llama-2's own `tokenizer.json`.

    transformers 5 sorts by id, which in Llama-2 is another order for runs of blanks.
    """
    ids: dict[str, int] = model["vocab"]

    def rank(merge: list[str]) -> tuple[float, int, int, int]:
        left, right = merge
        merged = ids[left + right]
        return -scores[merged], merged, ids[left], ids[right]

    model["merges"].sort(key=rank)
