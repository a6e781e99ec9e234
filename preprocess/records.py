"""Parse the bytes of one JSONL line to a record."""

from __future__ import annotations

from typing import Any

import orjson

from preprocess.rejects import Reason, Rejected

UTF8_BOM = b"\xef\xbb\xbf"


def parse_record(line: bytes) -> dict[str, Any]:
    """Parse one line.

    Args:
        line: the raw bytes; surrounding whitespace and line ends are ignored.

    Returns:
        The JSON object. If a key is given twice, the last value is used, as in Python's `json`.

    Raises:
        Rejected: NOT_UTF8, NOT_JSON (with the position in the line) or NOT_AN_OBJECT.
    """
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _explain(line, error) from None
    if type(record) is not dict:
        raise Rejected(Reason.NOT_AN_OBJECT, f"the line is {json_type(record)}, expected an object")
    return record


def record_id(record: dict[str, Any]) -> str | int | None:
    """The record's `id` if it is a string or an integer, else None."""
    found = record.get("id")
    return found if isinstance(found, (str, int)) and not isinstance(found, bool) else None


def _explain(line: bytes, error: orjson.JSONDecodeError) -> Rejected:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as decode_error:
        hint = "; the file looks like UTF-16: convert it" if b"\0" in line else ""
        byte = line[decode_error.start]
        return Rejected(Reason.NOT_UTF8, f"byte {decode_error.start} of the line is 0x{byte:02x}, not UTF-8{hint}")
    return Rejected(Reason.NOT_JSON, f"{error.msg} at character {error.pos + 1} of the line")


def json_type(value: object) -> str:
    """The JSON type of a value, with its article, for messages."""
    names = {dict: "an object", list: "an array", str: "a string", int: "a number", float: "a number"}
    return names.get(type(value)) or {None: "null", True: "true", False: "false"}[value]  # type: ignore[index]
