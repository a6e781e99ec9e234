"""Parse the options and the label of an ArxivQA record, which a language model wrote in various formats."""

from __future__ import annotations

import re
from collections.abc import Sequence

import orjson

from preprocess.converters.core.canonical import IMAGE_TOKEN, LETTERS
from preprocess.converters.core.reasons import SourceReason
from preprocess.rejects import Rejected, shorten

# "A) text", "A. text", "A: text", "(A) text"
_LETTERED = re.compile(r"\(?([A-Za-z])[).:]\s*(.*)", re.DOTALL)
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_LETTER_BLANK_TEXT = re.compile(r"([A-Za-z])\s+(.*)", re.DOTALL)
# A string in a list in Python syntax; it is parsed as text, nothing is evaluated.
_PRINTED_STRING = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)
_PRINTED_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_options(value: object) -> list[str]:
    """The texts of the options, without their letters.

    Args:
        value: a list of strings; or one string with such a list in JSON or Python syntax, or with one option per line.

    Raises:
        Rejected: NO_OPTIONS, IMAGE_TOKEN_IN_TEXT.
    """
    options = _split(value) if isinstance(value, str) else value
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise Rejected(SourceReason.NO_OPTIONS, "options is not a list of strings")
    texts = [option.strip() for option in options]
    while texts and not texts[-1]:
        texts.pop()
    lettered = [_LETTERED.fullmatch(option) for option in texts]
    in_place = [
        match if match and match[1].upper() == letter else None
        for match, letter in zip(lettered, LETTERS, strict=False)
    ]
    # A single such letter may be part of the text ("C. elegans" as third option); two are enumeration letters.
    if sum(match is not None for match in in_place) >= min(2, len(texts)):
        texts = [
            match[2].strip() if match else option
            for match, option in zip(in_place + [None] * (len(texts) - len(in_place)), texts, strict=True)
        ]
    if any(IMAGE_TOKEN in option for option in texts):
        raise Rejected(SourceReason.IMAGE_TOKEN_IN_TEXT, f"an option contains {IMAGE_TOKEN}")
    return texts


def find_option(label: str, options: Sequence[str]) -> int:
    """The index of the option that a label refers to by its letter, by letter and text, or by its text.

    Args:
        label: not empty.
        options: without letters.

    Raises:
        Rejected: LABEL_PAST_OPTIONS, or LABEL_NOT_AN_OPTION if it refers to no option or to several.
    """
    label = _unwrap(label)
    if letter := _LETTER.fullmatch(label):
        return _at(letter[1], options)
    by_text = _with_text(label, options)
    if by_text is not None:
        return by_text
    if lettered := _LETTERED.fullmatch(label):
        by_letter = _at(lettered[1], options)
        by_text = _with_text(lettered[2], options)
        if by_text is not None and by_text != by_letter:
            raise Rejected(
                SourceReason.LABEL_NOT_AN_OPTION, f"letter and text of {shorten(label)} refer to different options"
            )
        if not _LETTER.fullmatch(lettered[2].strip()):
            return by_letter
    elif spaced := _LETTER_BLANK_TEXT.fullmatch(label):
        by_text = _with_text(spaced[2], options)
        if by_text is not None and LETTERS[by_text] == spaced[1].upper():
            return by_text
    raise Rejected(SourceReason.LABEL_NOT_AN_OPTION, f"{shorten(label)} is not one of the {len(options)} options")


def _at(letter: str, options: Sequence[str]) -> int:
    index = LETTERS.index(letter.upper())
    if index >= len(options):
        raise Rejected(
            SourceReason.LABEL_PAST_OPTIONS, f"the label is {letter}, but there are only {len(options)} options"
        )
    return index


def _with_text(text: str, options: Sequence[str]) -> int | None:
    wanted = _folded(text)
    found = [index for index, option in enumerate(options) if _folded(option) == wanted]
    return found[0] if len(found) == 1 else None


def _folded(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()


def _unwrap(label: str) -> str:
    """`[A]`, `['A']`, `"A"` → `A`."""
    label = label.strip()
    while len(label) >= 2 and label[0] + label[-1] in ("[]", "''", '""'):
        label = label[1:-1].strip()
    return label


def _split(value: str) -> list[str]:
    value = value.strip()
    if value.startswith("[") and value.endswith("]"):
        try:
            listed = orjson.loads(value)
        except orjson.JSONDecodeError:
            return [_printed(match) for match in _PRINTED_STRING.finditer(value)]
        return [str(option) for option in listed]
    return [line for line in value.splitlines() if line.strip()]


def _printed(match: re.Match[str]) -> str:
    def unescape(escape: re.Match[str]) -> str:
        code = escape[1]
        return chr(int(code[1:], 16)) if len(code) > 1 else _ESCAPES.get(code, code)

    return _PRINTED_ESCAPE.sub(unescape, match[1] if match[1] is not None else match[2])
