"""Tokenizer folders: location, files that determine ids, and their digest. Loads no vocabulary."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from preprocess.config import ConfigError
from preprocess.regular_files import unreadable

_MODEL_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
CHAT_TEMPLATE_FILE = "chat_template.jinja"
SPECIAL_KINDS = ("bos", "eos", "unk", "pad")


def tokenizer_digest(name: str) -> str:
    """`Tokenizer.digest` without loading the vocabulary.

    Raises:
        ConfigError: no tokenizer found there, a file that cannot be read, or a config file that is not valid JSON.
    """
    folder = resolve_folder(name)
    return digest_of_files(read_model_files(folder), read_config(folder))


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
        files = [*_MODEL_FILES, *_CONFIG_FILES, CHAT_TEMPLATE_FILE]
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ConfigError(
            f"processor.tokenizer_type {name}: is no local folder, and the Hugging Face hub did not give it "
            f"({type(error).__name__}); check the name and the network, or give a local folder"
        ) from None


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Raises a ConfigError in place of an OSError, with the file that cannot be read."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename}: {unreadable(error, 'download the whole tokenizer')}") from None


@_readable()
def read_model_files(folder: Path) -> dict[str, bytes]:
    """The bytes of the file, or pair of files, that holds the vocabulary."""
    for names in (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt")):
        if all((folder / name).is_file() for name in names):
            return {name: (folder / name).read_bytes() for name in names}
    raise ConfigError(
        f"processor.tokenizer_type {folder}: the folder has no tokenizer.json and no tokenizer.model; "
        "download the whole tokenizer"
    )


@_readable()
def read_config(folder: Path) -> dict[str, Any]:
    """The values of all config files; `added_tokens.json` is the key `added_tokens`."""
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


def content_of(config: dict[str, Any], kind: str) -> str | None:
    """How a special token of one of `SPECIAL_KINDS` is spelled, None where the tokenizer has none."""
    value = config.get(f"{kind}_token")
    return value.get("content") if isinstance(value, dict) else value


def digest_of_files(model_bytes: dict[str, bytes], config: dict[str, Any]) -> str:
    """Compute the sha256 of what determines ids, without the vocabulary: a finished output is recognised at once."""
    digest = hashlib.sha256()
    for name in sorted(model_bytes):
        digest.update(hashlib.sha256(model_bytes[name]).digest())
    deciding = {f"{kind}_token": content_of(config, kind) for kind in SPECIAL_KINDS}
    deciding |= {key: config.get(key) for key in ("add_prefix_space", "added_tokens", "added_tokens_decoder")}
    digest.update(orjson.dumps(deciding, option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()
