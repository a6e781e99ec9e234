"""Parse YAML documents to plain types: text, numbers, true and false, null, lists and mappings."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, NoReturn

import yaml

_CORE = "tag:yaml.org,2002:"
_EXPONENT = "!exponent"
_TAGS = {_EXPONENT, *(_CORE + name for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge"))}


def read_yaml(text: str) -> Any:
    """Parse a YAML document to plain types; `1e-3` is 0.001, `1e4` the integer 10000, and `2024-07-26` is text.

    Raises:
        yaml.YAMLError: the document is invalid, is nested too deeply, or has a duplicate key, a value that is not of
            its type, a type that is not plain, or an alias inside its own anchor.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that refuses what PyYAML accepts silently, or refuses with an error other than YAMLError."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _TAGS:
            _refuse(node, f"the type {_short(node.tag)} is not supported, expected text, a number, a list or keys")
        if node in self.recursive_objects:
            _refuse(node, "it contains itself, by an alias (*) inside its own anchor (&)")
        try:
            # With `deep`, an alias inside its own anchor is detected; otherwise, PyYAML makes a cyclic object of it.
            return super().construct_object(node, deep=True)
        except (ValueError, TypeError, LookupError, AttributeError):
            found = f"{node.value!r} is" if isinstance(node, yaml.ScalarNode) else "it is"
            _refuse(node, f"{found} not a value of the type {_short(node.tag)}")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                _refuse(key_node, f"a key is {key!r}, expected text")
            if key in seen:  # PyYAML uses the last one
                _refuse(key_node, f"key {key!r} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_exponent(self, node: yaml.ScalarNode) -> int | float:
        number = float(self.construct_scalar(node))
        return int(number) if number.is_integer() and "." not in node.value else number


def _refuse(node: yaml.Node, problem: str) -> NoReturn:
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _short(tag: str) -> str:
    return "!!" + tag.removeprefix(_CORE) if tag.startswith(_CORE) else tag


# A text such as 2024-13-45 can be the name of a folder; the model of the settings parses dates.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_CORE}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# YAML 1.1, which PyYAML implements, requires a dot in a number with an exponent.
_Loader.add_implicit_resolver(_EXPONENT, re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_constructor(_EXPONENT, _Loader.construct_exponent)
