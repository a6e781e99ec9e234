"""YAML as configs and arguments are read: the same for the main job and the trainer."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml


def read_yaml(text: str) -> Any:
    """The value of a YAML document: plain types, no key given twice; `1e-3` is 0.001 and `1e4` the integer 10000.

    Raises:
        yaml.YAMLError: it is not valid, or nested so deeply that Python cannot read it.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, which plain YAML loaders resolve silently to the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_exponent(self, node: yaml.ScalarNode) -> int | float:
        number = float(self.construct_scalar(node))
        return int(number) if number.is_integer() and "." not in node.value else number


# YAML 1.1, which PyYAML implements, asks for a dot in a number with an exponent.
_Loader.add_implicit_resolver("!exponent", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_constructor("!exponent", _Loader.construct_exponent)
