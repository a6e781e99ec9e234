"""YAML and `section.key=value` overrides → validated `Params`, or one sentence about what is wrong."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from preprocess.yaml_values import read_yaml
from trainer.params import Params

# In an installed package the files ship inside preprocess; in a checkout they are in configs/ at the top.
_TOP = Path(__file__).resolve().parent.parent
SHIPPED_DIRS = (_TOP / "preprocess" / "configs", _TOP / "configs")


class ParamsError(ValueError):
    """Params, arguments or inputs are wrong; the message is one sentence for the user."""


def load_params(name: str, overrides: Iterable[str] = ()) -> Params:
    """Read and validate a params file.

    Args:
        name: path of a YAML file, or the name of one that ships with the package.
        overrides: `section.key=value`, as deep as needed; values are read as YAML.

    Raises:
        ParamsError: unreadable, no YAML, unknown or duplicate keys, wrong types or values.
    """
    path = _find(name)
    try:
        values = read_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read as UTF-8 text ({error}); give a readable YAML file") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: is not valid YAML: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path}: expected the sections {', '.join(Params.model_fields)}, each with its keys")
    for override in overrides:
        _apply_override(values, override)
    expanded = _expand(values, str(path.parent.resolve()))
    try:
        return Params.model_validate(expanded)
    except ValidationError as error:
        raise ParamsError(f"{path}: {_explain(error, expanded)}") from None


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known name, else the list of them."""
    names = list(known)
    nearest = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else f"; expected one of {', '.join(names)}"


def one_line(error: object) -> str:
    """A message without its line breaks."""
    return " ".join(str(error).split())


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = sorted(file for folder in SHIPPED_DIRS if folder.is_dir() for file in folder.glob("params_*.yaml"))
    for candidate in shipped:
        if name in (candidate.name, candidate.stem):
            return candidate
    names = [file.name for file in shipped]
    raise ParamsError(f"--params {name}: there is no such file{did_you_mean(name, names)}")


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise ParamsError(f"argument {override!r}: expected section.key=value, such as train_input.batch_size=16")
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        raise ParamsError(f"argument {override!r}: the value is not valid YAML: {one_line(error)}") from None
    section = values
    for part in parts[:-1]:
        inner = section.setdefault(part, {})
        if inner is None:
            inner = section[part] = {}
        if not isinstance(inner, dict):
            raise ParamsError(f"argument {override!r}: {part} is a value, not a section")
        section = inner
    section[parts[-1]] = value


def _expand(value: Any, folder: str) -> Any:
    """`${config_dir}` is the folder of the file, and a leading ~ the user's home; other paths are from the cwd."""
    if isinstance(value, dict):
        return {_expand(key, folder): _expand(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, folder) for inner in value]
    if isinstance(value, str):
        text = value.replace("${config_dir}", folder)
        return str(Path(text).expanduser()) if text.startswith("~") else text
    return value


def _explain(error: ValidationError, values: Any) -> str:
    """The first problem of a pydantic error as a sentence about the key."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    # A wrong value for a union is reported once for each member, with the member's name at the end.
    section, keys = _section_of(where)
    key = ".".join(keys)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}{did_you_mean(keys[-1], section.model_fields)}"
    if first["type"] == "missing":
        return f"{key} is missing; add it{' (a section of keys)' if len(keys) == 1 else ''}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    found = values
    for part in keys:
        found = found.get(part) if isinstance(found, dict) else None
    message = (message[0].lower() + message[1:]).replace("input should", "it should")
    return f"{key} is {found!r} ({type(found).__name__}): {message}"


def _section_of(where: list[str]) -> tuple[type[BaseModel], list[str]]:
    """The innermost section of a place in the file, and the place up to the key in that section."""
    section: type[BaseModel] = Params
    for depth, part in enumerate(where):
        inner = _model_of(section.model_fields[part].annotation) if part in section.model_fields else None
        if inner is None or depth == len(where) - 1:
            return section, where[: depth + 1]
        section = inner
    return section, where


def _model_of(annotation: Any) -> type[BaseModel] | None:
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    for member in members:
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None
