"""Read YAML files with `section.key=value` overrides into pydantic models; used for configs and trainer params."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from preprocess.regular_files import unreadable
from preprocess.yaml_loader import read_yaml

# Inside this folder in an installed package; at the top level in a checkout.
SHIPPED_DIRS = (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs")

_Model = TypeVar("_Model", bound=BaseModel)


class SettingsError(ValueError):
    """Invalid settings file, override or argument; the message is one sentence for the user."""


def shipped_files(*patterns: str) -> list[Path]:
    """The YAML files shipped with the package that match the patterns."""
    return [file for one in patterns for folder in SHIPPED_DIRS if folder.is_dir() for file in sorted(folder.glob(one))]


def find_file(name: str, option: str, *patterns: str) -> Path:
    """Find the file for `--option NAME`: a path, or the name of a file that ships with the package.

    Raises:
        SettingsError: the file does not exist, and the message lists the shipped files; or its folder is not readable.
    """
    path = Path(_with_home(name))
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise SettingsError(f"{option} {path}: {unreadable(error, 'give another path')}") from None
    shipped = shipped_files(*patterns)
    for candidate in shipped:
        if name in (candidate.name, candidate.stem):
            return candidate
    names = [file.name for file in shipped]
    raise SettingsError(
        f"{option} {name}: file not found{did_you_mean(name, names)}; give a path, or the name of a file that ships "
        f"with the package: {', '.join(names)}"
    )


def read_settings(model: type[_Model], path: Path, overrides: Iterable[str], example: str) -> _Model:
    """Read and validate a settings file.

    Args:
        model: the model of the file; its fields are the sections.
        path: path of the YAML file.
        overrides: `section.key=value`, with any number of sub-sections; the last one for a key is used. The value of a
            key that takes a string or a path is used as written (except an empty one, `null`, and surrounding quotes);
            other values are parsed as YAML.
        example: a valid override, for error messages.

    Raises:
        SettingsError: unreadable file, invalid YAML, unknown or duplicate keys, wrong types or values.
    """
    values = read_sections(model, path)
    given: dict[str, str] = {}
    for override in overrides:
        given[override.partition("=")[0]] = override
        _apply(model, values, override, example)
    return build_settings(model, values, str(path), path.parent, given)


def read_sections(model: type[BaseModel], path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a settings file, each with its keys, before they are validated.

    Raises:
        SettingsError: unreadable file, invalid YAML, no mapping of sections, duplicate keys.
    """
    try:
        values = read_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path}: {unreadable(error, 'give a YAML file')}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text ({error}); give a YAML file") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: is not valid YAML: {_with_place(error)}; correct it") from None
    return as_sections(model, values, str(path))


def as_sections(model: type[BaseModel], values: object, source: str) -> dict[str, dict[str, Any]]:
    """A copy of values as sections, each with its keys; a section that is None is empty.

    Raises:
        SettingsError: they are not a mapping of mappings; the message names `source`.
    """
    if not isinstance(values, Mapping) or not all(
        keys is None or isinstance(keys, Mapping) for keys in values.values()
    ):
        raise SettingsError(f"{source}: expected the sections {_listed(model.model_fields)}, each with its keys")
    return {section: dict(keys or {}) for section, keys in values.items()}


def set_key(values: dict[str, Any], path: Sequence[str], value: object, argument: str) -> None:
    """Set a key of a section or sub-section; sub-sections are copied first.

    Raises:
        SettingsError: a part of the path is a value; the message names `argument`.
    """
    section = values
    for part in path[:-1]:
        inner = section.get(part)
        if inner is not None and not isinstance(inner, Mapping):
            raise SettingsError(f"argument {argument!r}: {part} is a value, not a section")
        section[part] = section = dict(inner or {})
    section[path[-1]] = value


def build_settings(
    model: type[_Model],
    values: Mapping[str, Any],
    source: str,
    folder: Path,
    arguments: Mapping[str, str] | None = None,
) -> _Model:
    """Validate plain values; in strings, `${config_dir}` is replaced by `folder` and a leading `~` by the user's home.

    Args:
        model: the model to validate against.
        values: section → key → value.
        source: name of the source of the values, for messages.
        folder: the folder of the settings file.
        arguments: key → the argument that set it, for the keys that were not set by `source`.

    Raises:
        SettingsError: the first error, with its key.
    """
    expanded = _expand(values, str(folder.resolve()))
    try:
        return model.model_validate(expanded)
    except ValidationError as error:
        first = error.errors()[0]
        found = [str(part) for part in first["loc"]]
        where = _place(model, found)
        message = _explain(model, first, where, expanded)
        given = _given_by(arguments or {}, where, found, expanded, message)
        if given:
            source = f"argument{'s' * (len(given) > 1)} {_listed(map(repr, given))}"
        raise SettingsError(f"{source}: {message}") from None


def did_you_mean(found: str, known: Iterable[str], prefix: str = "") -> str:
    """` (did you mean X?)` for the most similar known name; empty if none is similar."""
    nearest = difflib.get_close_matches(found, list(known), n=1, cutoff=0.5)
    return f" (did you mean {prefix}{nearest[0]}?)" if nearest else ""


def one_line(error: object) -> str:
    """A message without its line breaks."""
    return " ".join(str(error).split())


def _apply(model: type[BaseModel], values: dict[str, Any], override: str, example: str) -> None:
    key, equals, text = override.partition("=")
    path = key.split(".")
    if not equals or len(path) < 2 or not all(path):
        raise SettingsError(f"argument {override!r}: expected section.key=value, such as {example}")
    try:
        if _takes_text(model, path) and text[:1] not in ("'", '"'):
            value = None if text in ("", "null") else text
        else:
            value = read_yaml(text)
    except yaml.YAMLError as error:
        raise SettingsError(
            f"argument {override!r}: the value is not valid YAML: {_with_place(error)}; correct it"
        ) from None
    set_key(values, path, value, override)


def _takes_text(model: type[BaseModel], path: Sequence[str]) -> bool:
    """Whether a key takes a string or a path. YAML would cut `a #2` at the comment and read `2024` as a number."""
    section = _section(model, path)
    if section is None or path[-1] not in section.model_fields:
        return False
    kinds = _kinds(section.model_fields[path[-1]].annotation)
    return kinds <= {str, Path, type(None)}


def _kinds(annotation: Any) -> set[Any]:
    """The member types of a union, without `Annotated` metadata."""
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return {get_args(one)[0] if get_origin(one) is Annotated else one for one in members}


def _section(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    """The model of the section that contains the last key of a path; None if there is no such section."""
    for part in path[:-1]:
        field = model.model_fields.get(part)
        models = [one for one in _kinds(field.annotation) if isinstance(one, type)] if field else []
        inner = next((one for one in models if issubclass(one, BaseModel)), None)
        if inner is None:
            return None
        model = inner
    return model


def _place(model: type[BaseModel], where: list[str]) -> list[str]:
    """The path of a key without the list indices and union members that pydantic appends."""
    for depth in range(1, len(where) + 1):
        section = _section(model, where[:depth])
        if section is None:
            return where[: depth - 1]
    return where


def _given_by(arguments: Mapping[str, str], where: list[str], found: list[str], values: Any, message: str) -> list[str]:
    """The arguments that an error is about; empty if its key was set by the file.

    Args:
        arguments: key → the argument that set it.
        where, found: path of the key, without and with list indices and keys of mappings.
        values: all values, of the file and of the arguments.
        message: the message of the error; an error of a whole section names the keys there.
    """
    for part in where:
        values = values.get(part) if isinstance(values, dict) else None
    inside = {key: text for key, text in arguments.items() if key.split(".")[: len(where)] == where}
    exact = [text for key, text in inside.items() if found[: key.count(".") + 1] == key.split(".")]
    if exact or not isinstance(values, dict):
        return exact
    named = [
        text for key, text in inside.items() if re.search(rf"(?<!\w){re.escape(key.split('.')[-1])}(?!\w)", message)
    ]
    if not named and all(key in inside for key in _leaves(values, where)):
        return list(inside.values())
    return named


def _leaves(values: Mapping[str, Any], where: list[str]) -> Iterator[str]:
    """The dotted keys of all values that are not mappings."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, [*where, str(key)])
        else:
            yield ".".join([*where, str(key)])


def _explain(model: type[BaseModel], error: Mapping[str, Any], where: list[str], values: Any) -> str:
    """A pydantic error as one sentence that names the key."""
    key = ".".join(where)
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(model, where)}"
    if error["type"] == "missing":
        return f"{key} is missing; add it{' (a section of keys)' if len(where) == 1 else ''}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    found = values
    for part in where:
        found = found.get(part) if isinstance(found, dict) else None
    message = message[0].lower() + message[1:]
    return f"{key} is {found!r} ({type(found).__name__}): {message.replace('input should', 'it should')}"


def _nearest(model: type[BaseModel], where: list[str]) -> str:
    """A suggestion for an unknown key: the same name in another section, or a similar one in the same section."""
    *sections, name = where
    section = _section(model, where)
    known = list(section.model_fields) if section else []
    if not sections:
        return f"{did_you_mean(name, known)}; the sections are {_listed(known)}"
    for other in model.model_fields:
        inner = _section(model, [other, name])
        if inner is not None and [other] != sections and name in inner.model_fields:
            return f" (did you mean {other}.{name}?)"
    place = ".".join(sections)
    return did_you_mean(name, known, prefix=f"{place}.") or f"; the keys of {place} are {_listed(known)}"


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _expand(value: Any, folder: str) -> Any:
    if isinstance(value, Mapping):
        return {_expand(key, folder): _expand(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, folder) for inner in value]
    return _with_home(value.replace("${config_dir}", folder)) if isinstance(value, str) else value


def _with_home(text: str) -> str:
    """Expand `~/a` and `~user/a`; unchanged if the home folder does not exist."""
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        return text


def _with_place(error: yaml.YAMLError) -> str:
    """The problem with its line and column, without the excerpt of the document, which needs several lines."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return one_line(error).replace(' in "<unicode string>",', "")
    mark = error.problem_mark
    problem = one_line(", ".join(filter(None, (error.context, error.problem))))
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})"
