"""Find the byte position of a JSON error. Slow and strict; used only after parsing has failed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True)
class Fault:
    """The error message and its byte position in the text."""

    byte: int
    message: str
    # The text may only be incomplete, as in a string that is not closed yet.
    is_open_string: bool = False


class _NotANumber(ValueError):
    """`NaN` or an infinity, which Python writes but JSON does not allow."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotANumber(name)


# Numbers are not converted, so that their size and digits do not matter.
_STRICT = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse_constant)
_STRING_OR_CONSTANT = re.compile(rb'"(?:[^"\\]|\\.)*"|-?Infinity|NaN', re.DOTALL)


def find_fault(text: bytes) -> Fault | None:
    """The reason why `text` is not exactly one JSON value by RFC 8259, or None if it is one.

    An escaped lone surrogate is valid by that standard, although UTF-8 cannot represent it.
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
