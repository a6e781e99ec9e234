"""Build the tokenizer that is saved with a model: it encodes prompts to the same ids as the rows in training.

With the SentencePiece family, `▁` is added at the start of a row and after the image, and nowhere else
(`Encoder.encode` of `preprocess/tokenize/encoder.py`, which follows the LLaVA authors' `tokenizer_image_token`). Every
`LlamaTokenizer` of transformers 5 adds it only at the start of the prompt. The class `TokenizersBackend`
(`PreTrainedTokenizerFast`) uses `tokenizer.json` unchanged, so the rule is written there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from preprocess.config import ConfigError
from preprocess.tokenize.folder import resolve_folder
from preprocess.tokenize.splitters import METASPACE
from preprocess.tokenize.tokenizer import START_OF_TEXT
from preprocess.tokenize.tokenizer import load_tokenizer as load_row_tokenizer
from trainer.params_file import ParamsError
from trainer.pretrained import load_tokenizer

IMAGE_TOKEN = "<image>"
_KEPT = (
    *("bos_token", "eos_token", "unk_token", "pad_token"),
    *("model_max_length", "padding_side", "truncation_side", "chat_template", "clean_up_tokenization_spaces"),
)


def load_prompt_tokenizer(source: str, key: str, *, image_starts_new_text: bool = True) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or hub name, for prompts with `<image>`.

    Args:
        source: folder or hub name.
        key: the params key or argument that named it, for messages.
        image_starts_new_text: whether the text after an image is tokenized as a new text, as by the templates of LLaVA
            1.5. Otherwise `<image>` is an ordinary added token, and the template writes BOS.

    Returns:
        the tokenizer; `<image>` is added as its last token if it is not in the vocabulary.

    Raises:
        ParamsError: it cannot be loaded, or rows cannot be written with it.
    """
    tokenizer = load_tokenizer(source, key)
    try:
        rows = load_row_tokenizer(source)
        folder = resolve_folder(source)
    except ConfigError as error:
        raise ParamsError(str(error).replace("processor.tokenizer_type", key)) from None
    if not image_starts_new_text:
        tokenizer = _with_original_pipeline(tokenizer, folder)
    elif rows.dummy_prefix:
        tokenizer = _with_prefix_after_image(tokenizer, _merge_scores(folder))
    if image_starts_new_text and rows.bos_id is not None and tokenizer("").input_ids != [rows.bos_id]:
        # Every row begins with BOS, whatever the tokenizer config says about prompts.
        tokenizer.add_bos_token, tokenizer.add_eos_token = True, False
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)])
    return tokenizer


def _with_original_pipeline(tokenizer: PreTrainedTokenizerBase, folder: Path) -> PreTrainedTokenizerBase:
    """Use the pipeline of `tokenizer.json` unchanged; transformers 5 rebuilds it for some classes (Phi-3, Mistral)."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return tokenizer
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_file(str(path)),
        **{name: getattr(tokenizer, name, None) for name in _KEPT},
    )


def image_token_id(tokenizer: PreTrainedTokenizerBase | None) -> int | None:
    """Return the id of `<image>`; None without a tokenizer."""
    return None if tokenizer is None else int(tokenizer.get_vocab()[IMAGE_TOKEN])


def _with_prefix_after_image(tokenizer: PreTrainedTokenizerBase, scores: list[float] | None) -> PreTrainedTokenizerBase:
    """Add `▁` at the start of the prompt and after `<image>`, but not after other special tokens.

    `tokenizers` splits a prompt at the tokens that are not `normalized`, normalises each part, and then searches the
    result for the other tokens. So `<image>` starts a new text and `</s>` does not. The other tokens pass through the
    normaliser too, which must not change them.
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
            {"type": "Replace", "pattern": {"Regex": rf"{START_OF_TEXT}(?!(?:{others})?\z)"}, "content": METASPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE},
        ],
    }
    spec["pre_tokenizer"] = None
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        **{name: getattr(tokenizer, name, None) for name in _KEPT},
    )


def _merge_scores(folder: Path) -> list[float] | None:
    """Return the score of each piece if transformers derives the merges from `tokenizer.model`, else None."""
    if (folder / "tokenizer.json").is_file():
        return None
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return [processor.GetScore(id_) for id_ in range(processor.GetPieceSize())]


def _sort_merges(model: dict[str, Any], scores: list[float]) -> None:
    """Sort merges by the scores of the pieces, as in Llama-2's own `tokenizer.json`.

    transformers 5 sorts by id, which in Llama-2 gives a different order for runs of blanks.
    """
    ids: dict[str, int] = model["vocab"]

    def rank(merge: list[str]) -> tuple[float, int, int, int]:
        left, right = merge
        merged = ids[left + right]
        return -scores[merged], merged, ids[left], ids[right]

    model["merges"].sort(key=rank)
