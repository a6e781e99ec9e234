"""Find the source of a chat template and its digest, without loading the vocabulary or rendering."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from preprocess.config import ConfigError, DatasetConfig
from preprocess.regular_files import unreadable
from preprocess.tokenize.folder import CHAT_TEMPLATE_FILE, read_config, resolve_folder

CHAT_TEMPLATE_STYLE = "chat_template"
_LONGEST = 1 << 20


@dataclass(frozen=True)
class TemplateSource:
    """The source of a template.

    Attributes:
        where: its file, for messages.
        text: the Jinja source.
        variables: the tokenizer's named tokens (`bos_token`, …), which templates may use.
    """

    where: str
    text: str
    variables: dict[str, str]

    @property
    def digest(self) -> str:
        """sha256 of the template and its variables."""
        content = orjson.dumps([self.text, self.variables], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(content).hexdigest()


def chat_template_digest(dataset: DatasetConfig, tokenizer_name: str) -> str | None:
    """The digest of the Jinja template of a config; None if it uses another kind of template.

    Raises:
        ConfigError: see `read_chat_template`.
    """
    if dataset.system_prompt_style != CHAT_TEMPLATE_STYLE:
        return None
    return read_chat_template(dataset, tokenizer_name).digest


def read_chat_template(dataset: DatasetConfig, tokenizer_name: str) -> TemplateSource:
    """Read `dataset.chat_template`, or the template in the tokenizer's folder that transformers uses.

    Raises:
        ConfigError: there is no template, or it cannot be read.
    """
    folder = resolve_folder(tokenizer_name)
    config = read_config(folder)
    variables = {key: text for key, value in config.items() if key.endswith("_token") and (text := _spelling(value))}
    if dataset.chat_template is not None:
        text = _read(dataset.chat_template, f"dataset.chat_template {dataset.chat_template}")
        return TemplateSource(str(dataset.chat_template), text, variables)
    path = folder / CHAT_TEMPLATE_FILE
    if path.is_file():
        return TemplateSource(str(path), _read(path, str(path)), variables)
    found = config.get("chat_template")
    if isinstance(found, list):  # several, each with a name
        found = next((each["template"] for each in found if each.get("name") == "default"), None)
    if not isinstance(found, str):
        raise ConfigError(
            f"processor.tokenizer_type {tokenizer_name}: has no chat template, which dataset.system_prompt_style "
            "chat_template requires; set dataset.chat_template to a file, or use another system_prompt_style"
        )
    return TemplateSource(str(folder / "tokenizer_config.json"), found, variables)


def _spelling(value: Any) -> str | None:
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _read(path: Path, name: str) -> str:
    try:
        if path.stat().st_size > _LONGEST:
            raise ConfigError(f"{name}: has more than {_LONGEST:,} bytes, expected a Jinja chat template")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{name}: {unreadable(error, 'give the file of a Jinja chat template')}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: is not UTF-8 text; give the file of a Jinja chat template") from None
