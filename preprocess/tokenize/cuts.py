"""Positions where a text can be cut without changing its ids when the parts are encoded separately.

Two families of vocabularies allow a cut at nearly every blank. For both, a word with the blank before it is
encoded once and then looked up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from preprocess.tokenize.byte_level import is_stable

BLANK = "▁"
_PUNCTUATION = frozenset(".,?!:;)\"'")
_AFTER_A_WORD = re.compile("[A-Za-z0-9]([.,?!:;)\"'])")


class Cuts(Protocol):
    """Cut positions of one tokenizer.

    Attributes:
        blank: how the blank before a word is spelled for the library.
        dummy_prefix: a text begins with one more blank.
        ends_words: punctuation that no token joins to an ASCII letter or digit before it, at the end of a word.
    """

    @property
    def blank(self) -> str: ...
    @property
    def dummy_prefix(self) -> bool: ...
    @property
    def ends_words(self) -> frozenset[str]: ...

    def spell(self, text: str) -> str:
        """Spell a text as the library expects it."""

    def between(self, before: str, after: str) -> bool:
        """Whether two neighbouring texts may be encoded apart, `after` as the continuation of a text."""

    def has_single_blanks(self, text: str) -> bool:
        """Whether a text may be cut at each of its blanks."""

    def at_runs_of_blanks(self, text: str) -> list[str]:
        """Split a text at runs of blanks; each part keeps the blanks before it."""

    def within_word(self, word: str) -> list[str]:
        """Split a word that has no blanks."""

    def joinable(self, words: Sequence[str]) -> Sequence[str]:
        """Select the words (without blanks) that may be encoded as one text, with a blank before each."""


@dataclass(frozen=True)
class SentencePieceCuts:
    """SentencePiece BPE in which no piece has `▁` after another character: no merge crosses the start of a run of `▁`.

    Attributes:
        newline_is_isolated: no piece joins a newline with anything, so no merge crosses a newline.
        newline_ends_pieces: no piece has a newline before another character than a newline.
    """

    dummy_prefix: bool
    newline_is_isolated: bool
    newline_ends_pieces: bool
    ends_words: frozenset[str]
    blank: str = BLANK

    def spell(self, text: str) -> str:
        return text.replace(" ", BLANK)

    def between(self, before: str, after: str) -> bool:
        if not after or not before:
            return False
        if after[0] in (" ", BLANK):
            return before[-1] not in (" ", BLANK)
        return before[-1] == "\n" != after[0] and self.newline_ends_pieces

    def has_single_blanks(self, text: str) -> bool:
        return "  " not in text and BLANK not in text and text[-1:] != " "

    def at_runs_of_blanks(self, text: str) -> list[str]:
        return _BLANKS_AND_WORD.findall(text.replace(BLANK, " "))

    def within_word(self, word: str) -> list[str]:
        if "\n" not in word:
            return [word]
        if self.newline_is_isolated:
            return _ISOLATED_NEWLINE.findall(word)
        return _BEHIND_NEWLINES.split(word) if self.newline_ends_pieces else [word]

    def joinable(self, words: Sequence[str]) -> Sequence[str]:
        return [word for word in words if word and BLANK not in word]


_BLANKS_AND_WORD = re.compile(" *[^ ]+| +")
_ISOLATED_NEWLINE = re.compile("\n|[^\n]+")
_BEHIND_NEWLINES = re.compile("(?<=\n)(?=[^\n])")


@dataclass(frozen=True)
class PatternCuts:
    """Byte-level BPE whose pre-tokenizer is a pattern of known alternatives.

    None of them matches a blank behind another character, but in a run of white space. So a cut before a blank that
    follows no white space is a cut between two matches, and what is on its left ends with a match that does not look
    further.

    Attributes:
        pattern: of the pre-tokenizer.
        newlines: the same for a place behind a newline and before what is neither white space nor `/`: one alternative
            takes white space up to the last newline before any other takes it (`\\s*[\\r\\n]+`).
    """

    pattern: str
    newlines: bool
    dummy_prefix: bool = False
    ends_words: frozenset[str] = frozenset()  # `within_word` cuts there too
    blank: str = " "

    def spell(self, text: str) -> str:
        return text

    def between(self, before: str, after: str) -> bool:
        if not after or not before:
            return False
        if after[0] == " ":
            return not before[-1].isspace()
        return self.newlines and before[-1] == "\n" and not (after[0].isspace() or after[0] == "/")

    def has_single_blanks(self, text: str) -> bool:
        return _BLANK_BEHIND_SPACE.search(text) is None

    def at_runs_of_blanks(self, text: str) -> list[str]:
        return _BEFORE_BLANKS.split(text)

    def within_word(self, word: str) -> list[str]:
        return (_BEFORE_PUNCTUATION_OR_BEHIND_NEWLINE if self.newlines else _BEFORE_PUNCTUATION).split(word)

    def joinable(self, words: Sequence[str]) -> Sequence[str]:
        fit = [word for word in words if word and not word[-1].isspace()]
        return fit if is_stable(" ".join(fit)) else list(filter(is_stable, fit))


# Python's white space is Unicode's and some control characters, which then are cut at less often than they could be.
_BLANK_BEHIND_SPACE = re.compile(r"\s ")
_BEFORE_BLANKS = re.compile(r"(?<=\S)(?= )")
# Letters and digits that every version of Unicode calls so: no match goes on from one of them to punctuation but for
# the apostrophe of short forms.
_AFTER_LETTER = "(?<=[A-Za-z0-9\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3])"
_BEFORE_PUNCTUATION = re.compile(rf"{_AFTER_LETTER}(?=[-.,!?:;)\"，。、！？；：])")
_BEFORE_PUNCTUATION_OR_BEHIND_NEWLINE = re.compile(rf"{_BEFORE_PUNCTUATION.pattern}|(?<=\n)(?=[^\s/])")

# The alternatives of the patterns of GPT-2, cl100k, Llama-3, Qwen2, o200k and tekken, without possessive signs.
_WORDS = [r"\p{L}+", r"[\p{L}\p{M}]+"]
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = [f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*"]
_SHORT_FORMS = ["(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)"]
_LINES = r"\s*[\r\n]+"
_ALTERNATIVES = {
    *_SHORT_FORMS,
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"),
    *(f"{before}{word}" for before in (r"[^\r\n\p{L}\p{N}]?", " ?") for word in (*_WORDS, *_CASED)),
    *(rf"[^\r\n\p{{L}}\p{{N}}]?{word}{short}?" for word in _CASED for short in _SHORT_FORMS),
    *(r"\p{N}", r"\p{N}{1,3}", r" ?\p{N}+", r"\p{N}+"),
    *(r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"),
    *(_LINES, r"\s+(?!\S)", r"\s+"),
}
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def sentencepiece_cuts(pieces: Sequence[str], *, dummy_prefix: bool) -> SentencePieceCuts | None:
    """The cuts of a vocabulary of the SentencePiece-BPE family; None where merges cross the starts of blanks."""
    joined = [piece for piece in pieces if len(piece) > 1]
    if any(BLANK in piece.lstrip(BLANK) for piece in joined):
        return None
    with_newline = [piece for piece in joined if "\n" in piece]
    return SentencePieceCuts(
        dummy_prefix=dummy_prefix,
        newline_is_isolated=not with_newline,
        newline_ends_pieces=all("\n" not in piece.rstrip("\n") for piece in with_newline),
        ends_words=_PUNCTUATION.difference(_AFTER_A_WORD.findall("\n".join(joined))),
    )


def pattern_cuts(spec: dict[str, Any]) -> PatternCuts | None:
    """The cuts of a `tokenizer.json` of the byte-level family; None where its pipeline is another than those known."""
    model, step = spec["model"], spec.get("pre_tokenizer") or {}
    steps: list[dict[str, Any]] = step.get("pretokenizers") or [step]
    plain = model.get("type") == "BPE" and not any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    )
    # NFC composes nothing with a blank or a newline, and moves no mark over one.
    normalizer = spec.get("normalizer") or {"type": "NFC"}
    if not plain or normalizer["type"] != "NFC" or steps[-1].get("type") != "ByteLevel" or len(steps) > 2:
        return None
    if steps[-1].get("add_prefix_space"):
        return None
    if len(steps) == 1:
        pattern = _GPT2 if steps[0].get("use_regex", True) else ""
    else:
        first, uses_pattern = steps[0], steps[1].get("use_regex", True)
        is_split = first["type"] == "Split" and first.get("behavior") == "Isolated" and not first.get("invert")
        pattern = first["pattern"].get("Regex", "") if is_split and not uses_pattern else ""
    alternatives = _top_level(pattern.replace("?+", "?").replace("++", "+"))
    if not alternatives or not _ALTERNATIVES.issuperset(alternatives):
        return None
    lines = alternatives.index(_LINES) if _LINES in alternatives else len(alternatives)
    takes_spaces_first = any(found.startswith(r"\s") for found in alternatives[:lines])
    return PatternCuts(pattern, newlines=lines < len(alternatives) and not takes_spaces_first)


def _top_level(pattern: str) -> list[str]:
    """Split a pattern at its top-level alternatives, not inside brackets."""
    found, depth = [""], 0
    for char in pattern:
        depth += (char in "([") - (char in ")]")
        if char == "|" and not depth:
            found.append("")
        else:
            found[-1] += char
    return found if pattern else []
