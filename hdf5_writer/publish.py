"""Write files of the output folder atomically; seal JSON documents and HTML pages with a checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from hdf5_writer.layout import OutputLayout
from preprocess.atomic_files import write_atomically
from preprocess.regular_files import NotRegularError, open_regular, read_regular


class DamagedError(ValueError):
    """The content of a document does not match its checksum."""


def publish(path: Path, chunks: Iterable[bytes]) -> None:
    """Write a file of the output folder atomically: under a `temporary` name, then renamed; see `write_atomically`."""
    write_atomically(path, chunks, OutputLayout.temporary(path))


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file.

    Raises:
        FileNotFoundError: the file does not exist.
        NotRegularError: it is not a regular file.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def seal(document: dict[str, Any], *, indent: bool = False) -> bytes:
    """Serialise a JSON document with its sha256 as the last key, `checksum`."""
    checksum = hashlib.sha256(_canonical(document)).hexdigest()
    option = orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if indent else 0)
    return orjson.dumps({**document, "checksum": checksum}, option=option)


def unseal(path: Path) -> dict[str, Any]:
    """Read a document written by `seal`.

    Raises:
        FileNotFoundError: the file does not exist.
        DamagedError: it is not a regular file, not a JSON object, or its checksum differs.
    """
    try:
        data = read_regular(path)
    except NotRegularError as error:
        raise DamagedError(f"{path}: is damaged: {error}") from None
    try:
        document = orjson.loads(data)
        checksum = document.pop("checksum")
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise DamagedError(f"{path}: is damaged: no JSON document with a checksum") from None
    if data != seal(document, indent=data.startswith(b"{\n")):
        raise DamagedError(f"{path}: is damaged: its content does not have the checksum {checksum!r}")
    return document  # type: ignore[no-any-return]


def seal_page(page: bytes) -> bytes:
    """Append a comment with the sha256 of an HTML page as its last line."""
    return page + b"<!-- sha256 of what stands above: %s -->\n" % hashlib.sha256(page).hexdigest().encode()


def is_whole_page(path: Path) -> bool:
    """Return whether a page matches the checksum in its last line; see `seal_page`."""
    try:
        data = read_regular(path)
    except NotRegularError:
        return False
    return data == seal_page(data[: len(data) - len(seal_page(b""))])


def digest_of(document: Any) -> str:
    """Return the sha256 of plain JSON data, independent of the order of keys."""
    return hashlib.sha256(_canonical(document)).hexdigest()


def _canonical(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
