"""A tokenizer folder or Hugging Face name → checked ids, a digest, and calls that never see special tokens.

Text from records must never become a special token, and pieces of the Llama family must be encoded by the
SentencePiece rule: blanks are `▁`, and a text begins with one more `▁` (the dummy prefix). transformers 5 does
neither for every folder, so what encodes here is the library below it: `sentencepiece` for a `tokenizer.model`,
the model of `tokenizers` for a `tokenizer.json`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from preprocess.config import ConfigError
from preprocess.tokenize.backends import Backend, JsonModelBackend, JsonPipelineBackend, SentencePieceBackend

BLANK = "▁"
# How a normaliser begins that puts the dummy prefix in front of texts alone, as in the folders that `trainer` saves.
START_OF_TEXT = r"\A"
_MODEL_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# Fewer pieces than bytes: no real vocabulary. transformers 5 makes such ones of a folder that has a config alone.
_SMALLEST_VOCABULARY = 256
_SPECIAL = ("bos", "eos", "unk", "pad")
_PUNCTUATION = set(".,?!:;)\"'")
_AFTER_A_WORD = re.compile("[A-Za-z0-9]([.,?!:;)\"'])")


@dataclass(frozen=True)
class Tokenizer:
    """A loaded and checked tokenizer.

    Attributes:
        name: what the user called it.
        digest: sha256 over what decides ids (model file, special tokens).
        vocab_size: one more than the largest id, added tokens included.
        bos_id: None for a tokenizer without BOS: rows then begin without one.
        pad_id: the pad token, else unk (as LLaVA sets it), else EOS.
        sentencepiece_rule: blanks are `▁` inside pieces; otherwise the library's own call is the rule.
        dummy_prefix: with the SentencePiece rule, a text begins with one more `▁`.
        cuts_at_blanks: no piece has `▁` after another character, so no merge crosses the start of a run of `▁`.
        newline_is_isolated: no piece joins a newline with anything, so no merge crosses a newline.
        ends_words: punctuation that no piece joins to an ASCII letter or digit before it.
        tokens: the piece or added token of each id, as it is spelled.
    """

    name: str
    digest: str
    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int
    sentencepiece_rule: bool
    dummy_prefix: bool
    cuts_at_blanks: bool
    newline_is_isolated: bool
    ends_words: frozenset[str]
    tokens: tuple[str, ...] = field(repr=False)
    backend: Backend = field(repr=False)


def load_tokenizer(name: str) -> Tokenizer:
    """Load a local folder, or a Hugging Face name through the hub's cache.

    Raises:
        ConfigError: nothing there, a broken or missing model file, a vocabulary that cannot be the one that the
            config beside it speaks of, or too little memory.
    """
    try:
        return _load(name)
    except MemoryError:
        raise ConfigError(
            f"processor.tokenizer_type {name}: the memory is too small to load it; free some, or raise the limit that "
            "this process has, and run the same command again"
        ) from None


def _load(name: str) -> Tokenizer:
    folder = resolve_folder(name)
    model_bytes, config = _read_model_files(folder), _read_config(folder)
    digest = _digest(model_bytes, config)
    if "tokenizer.json" in model_bytes:
        backend, rule, dummy_prefix, added = _load_json(folder, model_bytes["tokenizer.json"], config)
    elif "tokenizer.model" in model_bytes:
        backend, rule, dummy_prefix, added = _load_sentencepiece(folder, model_bytes["tokenizer.model"], config)
    else:
        backend, rule, dummy_prefix, added = _load_with_transformers(folder, config)
    pieces = backend.pieces()
    if len(pieces) < _SMALLEST_VOCABULARY:
        raise ConfigError(
            f"processor.tokenizer_type {name}: the vocabulary has {len(pieces)} pieces, too few for any real model; "
            "give a folder with a whole tokenizer.json or tokenizer.model"
        )
    tokens = dict(enumerate(pieces)) | {id_: content for content, id_ in added.items()}
    by_content = {content: id_ for id_, content in tokens.items()}
    special = {kind: _special_id(name, kind, config, by_content) for kind in _SPECIAL}
    eos = special["eos"]
    if eos is None:
        raise ConfigError(
            f"processor.tokenizer_type {name}: names no eos_token, which every template needs; "
            "add it to tokenizer_config.json"
        )
    pad = next(id_ for id_ in (special["pad"], special["unk"], eos) if id_ is not None)
    joined = [piece for piece in pieces if len(piece) > 1]
    return Tokenizer(
        name=name,
        digest=digest,
        vocab_size=max(tokens) + 1,
        bos_id=special["bos"],
        eos_id=eos,
        pad_id=pad,
        sentencepiece_rule=rule,
        dummy_prefix=dummy_prefix,
        cuts_at_blanks=rule and not any(BLANK in piece.lstrip(BLANK) for piece in joined),
        newline_is_isolated=rule and not any("\n" in piece for piece in joined),
        ends_words=frozenset(_PUNCTUATION.difference(_AFTER_A_WORD.findall("\n".join(joined))) if rule else ()),
        tokens=tuple(tokens.get(id_, "") for id_ in range(max(tokens) + 1)),
        backend=backend,
    )


def tokenizer_digest(name: str) -> str:
    """`Tokenizer.digest` without loading the vocabulary.

    Raises:
        ConfigError: nothing there.
    """
    folder = resolve_folder(name)
    return _digest(_read_model_files(folder), _read_config(folder))


def resolve_folder(name: str) -> Path:
    """The local folder of a tokenizer, fetched through the hub's cache where the name is one of the hub's."""
    try:
        folder = Path(name).expanduser()
    except RuntimeError:  # no such home
        folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ConfigError(f"processor.tokenizer_type {name}: is a file, expected the folder it is in")
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise ConfigError(f"processor.tokenizer_type {name}: no such folder; give a folder or a Hugging Face name")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=[*_MODEL_FILES, *_CONFIG_FILES]))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ConfigError(
            f"processor.tokenizer_type {name}: is no local folder, and the Hugging Face hub did not give it "
            f"({type(error).__name__}); check the name and the network, or give a local folder"
        ) from None


def _read_model_files(folder: Path) -> dict[str, bytes]:
    """The bytes of the file, or pair of files, that holds the vocabulary."""
    for names in (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt")):
        if all((folder / name).is_file() for name in names):
            return {name: (folder / name).read_bytes() for name in names}
    raise ConfigError(
        f"processor.tokenizer_type {folder}: the folder has no tokenizer.json and no tokenizer.model; "
        "download the whole tokenizer"
    )


def _read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name in _CONFIG_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            values = orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{path}: is not valid JSON ({error.msg}); download it again") from None
        if name == "added_tokens.json":
            config["added_tokens"] = values
        else:
            config = {**values, **{key: value for key, value in config.items() if value is not None}}
    return config


def _content(config: dict[str, Any], kind: str) -> str | None:
    value = config.get(f"{kind}_token")
    return value.get("content") if isinstance(value, dict) else value


def _special_id(name: str, kind: str, config: dict[str, Any], by_content: dict[str, int]) -> int | None:
    content = _content(config, kind)
    if content is None:
        return None
    if content not in by_content:
        raise ConfigError(
            f"processor.tokenizer_type {name}: {kind}_token is {content!r}, which the vocabulary does not have; "
            "the config and the model are not of one tokenizer"
        )
    return by_content[content]


def _digest(model_bytes: dict[str, bytes], config: dict[str, Any]) -> str:
    """sha256 over what decides ids. Needs no vocabulary, so that a finished output is recognised at once."""
    digest = hashlib.sha256()
    for name in sorted(model_bytes):
        digest.update(hashlib.sha256(model_bytes[name]).digest())
    deciding = {f"{kind}_token": _content(config, kind) for kind in _SPECIAL}
    deciding |= {key: config.get(key) for key in ("add_prefix_space", "added_tokens", "added_tokens_decoder")}
    digest.update(orjson.dumps(deciding, option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()


def _what_it_is_instead(data: bytes) -> str:
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; run `git lfs pull`"
    if data.lstrip()[:1] == b"<":
        return "it is an HTML page; download the file itself"
    return f"it has {len(data)} bytes; download it again"


_Loaded = tuple[Backend, bool, bool, dict[str, int]]


def _load_json(folder: Path, data: bytes, config: dict[str, Any]) -> _Loaded:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        spec = orjson.loads(data)
    except Exception as error:  # the library raises bare Exception for whatever is wrong in the file
        if isinstance(error, MemoryError) or "Not enough memory" in str(error):  # the latter is orjson's
            raise MemoryError from None
        raise ConfigError(
            f"{folder / 'tokenizer.json'}: is no tokenizer ({' '.join(str(error).split())}): "
            f"{_what_it_is_instead(data)}"
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    added = {token["content"]: token["id"] for token in spec.get("added_tokens") or []}
    dummy_prefix = _dummy_prefix_of(spec)
    if dummy_prefix is None:
        return JsonPipelineBackend(tokenizer), False, False, added
    return JsonModelBackend(tokenizer), True, dummy_prefix and config.get("add_prefix_space") is not False, added


def _dummy_prefix_of(spec: dict[str, Any]) -> bool | None:
    """Whether a `tokenizer.json` of the SentencePiece-BPE family adds a dummy prefix; None for other families."""
    if spec["model"].get("type") != "BPE" or not spec["model"].get("byte_fallback"):
        return None
    steps: list[dict[str, Any]] = []
    for step in (spec.get("normalizer"), spec.get("pre_tokenizer")):
        if step:
            steps += step.get("normalizers") or step.get("pretokenizers") or [step]
    prefix = marks_blanks = False
    for step in steps:
        if step["type"] == "Prepend" and step["prepend"] == BLANK:
            prefix = True
        elif step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == BLANK:
            marks_blanks = True
        elif step["type"] == "Replace" and _is_start(step["pattern"]) and step["content"] == BLANK:
            prefix = True
        elif step["type"] == "Metaspace" and step["replacement"] == BLANK:
            marks_blanks = True
            prefix = prefix or step.get("prepend_scheme", "always") != "never"
        else:
            return None
    return prefix if marks_blanks else None


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
        raise ConfigError(f"{path}: is no SentencePiece model: {_what_it_is_instead(data)}")
    added: dict[str, int] = dict(config.get("added_tokens") or {})
    for id_, token in (config.get("added_tokens_decoder") or {}).items():
        added[token["content"]] = int(id_)
    probe = "a\n\tﬁ Ａ  b"
    normalized = processor.Normalize(probe)
    if normalized.removeprefix(BLANK) != probe.replace(" ", BLANK) or not any(map(processor.IsByte, range(size))):
        raise ConfigError(
            f"{path}: normalises text or has no byte fallback, so it is not of the Llama family; "
            "give a folder with its tokenizer.json"
        )
    return SentencePieceBackend(processor), True, normalized.startswith(BLANK), added


def _load_with_transformers(folder: Path, config: dict[str, Any]) -> _Loaded:
    """`vocab.json` and `merges.txt` (GPT-2, Qwen): transformers knows how each class builds its pipeline of them."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        data: str = loaded.backend_tokenizer.to_str()
    except (AttributeError, OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"processor.tokenizer_type {folder}: transformers cannot load it ({' '.join(str(error).split())}); "
            "give a folder with a tokenizer.json"
        ) from None
    for kind in _SPECIAL:
        config.setdefault(f"{kind}_token", getattr(loaded, f"{kind}_token"))
    return _load_json(folder, data.encode(), config)
