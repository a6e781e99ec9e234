"""Load and check the tokenizer of a folder or Hugging Face name.

Text of records must never be encoded to a special token, and Llama vocabularies need the SentencePiece rule: spaces are
`▁`, and a text starts with one more `▁` (the dummy prefix). transformers 5 guarantees neither for every folder, so the
libraries below it are used: `sentencepiece` for a `tokenizer.model`, the model of `tokenizers` for a `tokenizer.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from preprocess.config import ConfigError
from preprocess.settings import did_you_mean
from preprocess.tokenize.backends import Backend, JsonModelBackend, SentencePieceBackend
from preprocess.tokenize.byte_level import ByteLevelBackend
from preprocess.tokenize.folder import (
    SPECIAL_KINDS,
    content_of,
    digest_of_files,
    read_config,
    read_model_files,
    resolve_folder,
)
from preprocess.tokenize.splitters import METASPACE, PatternSplitter, Splitter, pattern_splitter, sentencepiece_splitter

# Start of the pattern of a normaliser that adds the dummy prefix only to texts, as in the folders that `trainer` saves.
START_OF_TEXT = r"\A"
# Fewer pieces than bytes: not a real vocabulary. transformers 5 makes one from a folder with only a config.
_SMALLEST_VOCABULARY = 256


class AddedToken(NamedTuple):
    """Token added to the pieces of the vocabulary; text is never encoded to it.

    Attributes:
        id: its id.
        lstrip, rstrip: in a template, the whitespace before or after it is dropped, as `tokenizers` does.
        starts_text: with the SentencePiece rule, the text after it starts with the dummy prefix.
    """

    id: int
    lstrip: bool = False
    rstrip: bool = False
    starts_text: bool = False


@dataclass(frozen=True)
class Tokenizer:
    """A loaded and checked tokenizer.

    Attributes:
        name: the name that the user gave.
        digest: sha256 over everything that determines ids (model file, special tokens).
        vocab_size: one more than the largest id, added tokens included.
        bos_id: None for a tokenizer without BOS: rows then begin without one.
        pad_id: the pad token, else unk (as LLaVA sets it), else EOS.
        sentencepiece_rule: spaces are `▁` in the pieces; otherwise the library encodes texts as they are.
        dummy_prefix: with the SentencePiece rule, a text starts with one more `▁`.
        prefix_after_special: so does the text after an added token that a text may contain, such as `<image>`.
        splitter: split rules; None if the library must encode whole texts.
        tokens: the spelling of the piece or added token of each id.
        added: the added tokens and control pieces, by spelling.
    """

    name: str
    digest: str
    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int
    sentencepiece_rule: bool
    dummy_prefix: bool
    prefix_after_special: bool
    splitter: Splitter | None
    tokens: tuple[str, ...] = field(repr=False)
    added: Mapping[str, AddedToken] = field(repr=False)
    backend: Backend = field(repr=False)

    def require_token(self, token: str, needed_by: str) -> AddedToken:
        """Look up an added token by its spelling.

        Raises:
            ConfigError: there is none; `needed_by` says what needs it.
        """
        found = self.added.get(token)
        if found is None:
            raise ConfigError(
                f"processor.tokenizer_type {self.name}: has no special token {token!r}"
                f"{did_you_mean(token, self.added)}, which {needed_by} needs; give the tokenizer of a model that was "
                "trained with it, or another template"
            )
        return found


def load_tokenizer(name: str) -> Tokenizer:
    """Load a local folder, or a Hugging Face name through the hub's cache.

    Raises:
        ConfigError: no tokenizer there, a damaged or missing model file, a vocabulary that does not match the config
            in its folder, or too little memory.
    """
    try:
        return _load(name)
    except MemoryError:
        raise ConfigError(
            f"processor.tokenizer_type {name}: not enough memory to load it; free some, or raise the memory limit of "
            "this process, and rerun"
        ) from None


def _load(name: str) -> Tokenizer:
    folder = resolve_folder(name)
    model_bytes, config = read_model_files(folder), read_config(folder)
    digest = digest_of_files(model_bytes, config)
    if "tokenizer.json" in model_bytes:
        loaded = _load_json(folder, model_bytes["tokenizer.json"], config)
    elif "tokenizer.model" in model_bytes:
        loaded = _load_sentencepiece(folder, model_bytes["tokenizer.model"], config)
    else:
        loaded = _load_with_transformers(folder, config)
    backend, prefix, added, splitter = loaded
    rule = prefix is not None
    dummy_prefix = prefix is not None and prefix.at_start
    pieces = backend.pieces()
    if len(pieces) < _SMALLEST_VOCABULARY:
        raise ConfigError(
            f"processor.tokenizer_type {name}: the vocabulary has {len(pieces)} pieces, too few for any real model; "
            "give a folder with a whole tokenizer.json or tokenizer.model"
        )
    tokens = dict(enumerate(pieces)) | {token.id: content for content, token in added.items()}
    by_content = {content: id_ for id_, content in tokens.items()}
    special = {kind: _special_id(name, kind, config, by_content) for kind in SPECIAL_KINDS}
    eos = special["eos"]
    if eos is None:
        raise ConfigError(
            f"processor.tokenizer_type {name}: has no eos_token, which every template needs; "
            "add it to tokenizer_config.json"
        )
    pad = next(id_ for id_ in (special["pad"], special["unk"], eos) if id_ is not None)
    return Tokenizer(
        name=name,
        digest=digest,
        vocab_size=max(tokens) + 1,
        bos_id=special["bos"],
        eos_id=eos,
        pad_id=pad,
        sentencepiece_rule=rule,
        dummy_prefix=dummy_prefix,
        prefix_after_special=prefix is not None and prefix.after_special,
        splitter=sentencepiece_splitter(pieces, dummy_prefix=dummy_prefix) if rule else splitter,
        tokens=tuple(tokens.get(id_, "") for id_ in range(max(tokens) + 1)),
        added=added,
        backend=backend,
    )


def _special_id(name: str, kind: str, config: dict[str, Any], by_content: dict[str, int]) -> int | None:
    content = content_of(config, kind)
    if content is None:
        return None
    if content not in by_content:
        raise ConfigError(
            f"processor.tokenizer_type {name}: {kind}_token is {content!r}, which is not in the vocabulary; "
            "the config and the model file belong to different tokenizers"
        )
    return by_content[content]


def _describe_bytes(data: bytes) -> str:
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull`"
    if data.lstrip()[:1] == b"<":
        return "it is an HTML page; download the file itself"
    return f"it has {len(data)} bytes; download it again"


class _DummyPrefix(NamedTuple):
    """Where the SentencePiece rule adds a `▁`: at the start of a text, and after added tokens."""

    at_start: bool
    after_special: bool


class _Loaded(NamedTuple):
    backend: Backend
    prefix: _DummyPrefix | None  # None: not the SentencePiece rule
    added: dict[str, AddedToken]
    splitter: PatternSplitter | None = None


def _added(tokens: Iterable[dict[str, Any]], prefix: _DummyPrefix | None) -> dict[str, AddedToken]:
    """Read the tokens of `added_tokens` or `added_tokens_decoder`.

    The library splits a prompt at the tokens that are not `normalized` and normalises the parts between them, so a text
    starts only after such a token.
    """
    return {
        token["content"]: AddedToken(
            token["id"],
            bool(token.get("lstrip")),
            bool(token.get("rstrip")),
            prefix is not None and prefix.after_special and not token.get("normalized"),
        )
        for token in tokens
    }


def _load_json(folder: Path, data: bytes, config: dict[str, Any]) -> _Loaded:
    import tokenizers

    try:
        spec = orjson.loads(data)
        prefix = _dummy_prefix_of(spec)
        if prefix is None and spec.get("added_tokens"):
            # Otherwise the library would encode text to added tokens, special or not.
            data = orjson.dumps({**spec, "added_tokens": []})
        tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception for any fault of the file
        if isinstance(error, MemoryError) or "Not enough memory" in str(error):  # the latter is orjson's
            raise MemoryError from None
        raise ConfigError(
            f"{folder / 'tokenizer.json'}: is not a tokenizer ({' '.join(str(error).split())}): {_describe_bytes(data)}"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if prefix is not None and config.get("add_prefix_space") is False:
        prefix = _DummyPrefix(False, False)
    added = _added(spec.get("added_tokens") or [], prefix)
    if prefix is not None:
        return _Loaded(JsonModelBackend(tokenizer), prefix, added)
    splitter = pattern_splitter(spec)
    return _Loaded(ByteLevelBackend(tokenizer, splitter.pattern if splitter else None), None, added, splitter)


def _dummy_prefix_of(spec: dict[str, Any]) -> _DummyPrefix | None:
    """Read where a SentencePiece-BPE `tokenizer.json` adds the dummy prefix; None for other families."""
    if spec["model"].get("type") != "BPE" or not spec["model"].get("byte_fallback"):
        return None
    steps: list[dict[str, Any]] = []
    for step in (spec.get("normalizer"), spec.get("pre_tokenizer")):
        if step:
            steps += step.get("normalizers") or step.get("pretokenizers") or [step]
    prefix = after_special = marks_spaces = False
    for step in steps:
        if step["type"] == "Prepend" and step["prepend"] == METASPACE:
            prefix = after_special = True
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == METASPACE:
            marks_spaces = True
        elif step["type"] == "Replace" and _is_start(step["pattern"]) and step["content"] == METASPACE:
            prefix = after_special = True
        elif step["type"] == "Metaspace" and step["replacement"] == METASPACE:
            marks_spaces = True
            scheme = step.get("prepend_scheme", "always")
            prefix, after_special = prefix or scheme != "never", after_special or scheme == "always"
        else:
            return None
    return _DummyPrefix(prefix, after_special) if marks_spaces else None


def _is_start(pattern: dict[str, str]) -> bool:
    return pattern.get("Regex", "").startswith(f"{START_OF_TEXT}(?!")


def _load_sentencepiece(folder: Path, data: bytes, config: dict[str, Any]) -> _Loaded:
    import sentencepiece

    path = folder / "tokenizer.model"
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
        size = processor.GetPieceSize()
    except (RuntimeError, OSError, ValueError):
        size = 0
    if not size:
        raise ConfigError(f"{path}: is not a SentencePiece model: {_describe_bytes(data)}")
    probe = "a\n\tﬁ Ａ  b"
    normalized = processor.Normalize(probe)
    if normalized.removeprefix(METASPACE) != probe.replace(" ", METASPACE) or not any(
        map(processor.IsByte, range(size))
    ):
        raise ConfigError(
            f"{path}: normalises text or has no byte fallback, so it is not of the Llama family; "
            "give a folder with its tokenizer.json"
        )
    starts = normalized.startswith(METASPACE)
    # With `legacy: false`, transformers adds the prefix only at the start of a prompt.
    prefix = _DummyPrefix(starts, starts and config.get("legacy") is not False)
    control = [{"content": processor.IdToPiece(id_), "id": id_} for id_ in range(size) if processor.IsControl(id_)]
    named = [{"content": content, "id": id_} for content, id_ in (config.get("added_tokens") or {}).items()]
    described = [token | {"id": int(id_)} for id_, token in (config.get("added_tokens_decoder") or {}).items()]
    return _Loaded(SentencePieceBackend(processor), prefix, _added([*control, *named, *described], prefix))


def _load_with_transformers(folder: Path, config: dict[str, Any]) -> _Loaded:
    """Load `vocab.json` and `merges.txt` (GPT-2, Qwen): transformers knows the pipeline of each tokenizer class."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        data: str = loaded.backend_tokenizer.to_str()
    except (AttributeError, OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"processor.tokenizer_type {folder}: transformers cannot load it ({' '.join(str(error).split())}); "
            "give a folder with a tokenizer.json"
        ) from None
    for kind in SPECIAL_KINDS:
        config.setdefault(f"{kind}_token", getattr(loaded, f"{kind}_token"))
    return _load_json(folder, data.encode(), config)
