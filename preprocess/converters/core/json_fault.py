"""Where a piece of JSON is broken, in bytes. Slow and strict: used only once something failed to parse."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True)
class Fault:
    """What is wrong, and at which byte of the text looked at."""

    byte: int
    message: str
    # The text may simply go on: a string that is not closed yet.
    is_open_string: bool = False


class _NotANumber(ValueError):
    """`NaN` or an infinity: Python writes them, JSON has no such thing."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotANumber(name)


# Numbers stay text, so that neither their size nor their digits matter.
_STRICT = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)
_STRING_OR_CONSTANT = re.compile(rb'"(?:[^"\\]|\\.)*"|-?Infinity|NaN', re.DOTALL)


def find_fault(text: bytes) -> Fault | None:
    """Say why `text` is not exactly one JSON value by RFC 8259, or None if it is one.

    A lone half of a surrogate pair, written as an escape, is valid by that standard, though no UTF-8 can hold it.
    """
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault(error.start, f"0x{text[error.start]:02x} is not UTF-8")
    try:
        _STRICT.decode(decoded)
    except json.JSONDecodeError as error:
        byte = len(decoded[: error.pos].encode())
        return Fault(byte, error.msg[:1].lower() + error.msg[1:], error.msg.startswith("Unterminated string"))
    except _NotANumber as error:
        found = (match for match in _STRING_OR_CONSTANT.finditer(text) if not match[0].startswith(b'"'))
        return Fault(next(found).start(), f"{error} is not JSON")
    except RecursionError:
        return Fault(0, "this value is nested too deeply to be checked")
    return None
