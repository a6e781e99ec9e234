"""Split texts at positions where the parts can be encoded separately without changing the ids.

Two families of vocabularies allow a split at nearly every space, so each distinct word, with the space before it, is
encoded once and then looked up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from preprocess.tokenize.byte_level import is_version_independent

METASPACE = "▁"
_PUNCTUATION = frozenset(".,?!:;)\"'")
_AFTER_ALPHANUMERIC = re.compile("[A-Za-z0-9]([.,?!:;)\"'])")


class Splitter(Protocol):
    """Split rules of one tokenizer.

    Attributes:
        space: spelling of a space in the vocabulary.
        dummy_prefix: a text is encoded with one more space at its start.
    """

    @property
    def space(self) -> str: ...
    @property
    def dummy_prefix(self) -> bool: ...

    def escape(self, text: str) -> str:
        """Replace spaces by their spelling in the vocabulary."""

    def can_split_between(self, before: str, after: str) -> bool:
        """Whether adjacent texts can be encoded separately, `after` as the continuation of a text."""

    def can_split_at_spaces(self, text: str) -> bool:
        """Whether a text can be split before each of its spaces."""

    def split_at_space_runs(self, text: str) -> list[str]:
        """Split a text before its runs of spaces."""

    def split_word(self, word: str) -> list[str]:
        """Split a word without spaces."""

    def joinable(self, words: Sequence[str]) -> Sequence[str]:
        """Select the words (without spaces) that can be encoded as one text, with a space before each."""


@dataclass(frozen=True)
class SentencePieceSplitter:
    """SentencePiece BPE in which no piece has `▁` after another character: no merge crosses the start of a run of `▁`.

    Attributes:
        newline_is_isolated: no piece contains a newline and another character, so no merge crosses a newline.
        newline_ends_pieces: no piece has a newline before a character other than a newline.
        separate_punctuation: punctuation that no piece joins to an ASCII letter or digit before it.
    """

    dummy_prefix: bool
    newline_is_isolated: bool
    newline_ends_pieces: bool
    separate_punctuation: frozenset[str]
    space: str = METASPACE

    def escape(self, text: str) -> str:
        return text.replace(" ", METASPACE)

    def can_split_between(self, before: str, after: str) -> bool:
        if not after or not before:
            return False
        if after[0] in (" ", METASPACE):
            return before[-1] not in (" ", METASPACE)
        return before[-1] == "\n" != after[0] and self.newline_ends_pieces

    def can_split_at_spaces(self, text: str) -> bool:
        return "  " not in text and METASPACE not in text and text[-1:] != " "

    def split_at_space_runs(self, text: str) -> list[str]:
        return _SPACES_AND_WORD.findall(text.replace(METASPACE, " "))

    def split_word(self, word: str) -> list[str]:
        if "\n" in word:
            if self.newline_is_isolated:
                return _ISOLATED_NEWLINE.findall(word)
            if self.newline_ends_pieces:
                return _AFTER_NEWLINES.split(word)
        last, before = word[-1:], word[-2:-1]
        if last in self.separate_punctuation and before.isascii() and before.isalnum():
            return [word[:-1], last]
        return [word]

    def joinable(self, words: Sequence[str]) -> Sequence[str]:
        return [word for word in words if word and METASPACE not in word]


_SPACES_AND_WORD = re.compile(" *[^ ]+| +")
_ISOLATED_NEWLINE = re.compile("\n|[^\n]+")
_AFTER_NEWLINES = re.compile("(?<=\n)(?=[^\n])")


@dataclass(frozen=True)
class PatternSplitter:
    """Byte-level BPE whose pre-tokenizer is a pattern of known alternatives.

    No alternative matches a space after another character, except within a run of whitespace. So the position before
    a space that follows a non-whitespace character is a boundary of two matches, and the match before it does not
    depend on what follows.

    Attributes:
        pattern: regular expression of the pre-tokenizer.
        newlines: the same holds between a newline and a character that is neither whitespace nor `/`, because one
            alternative (`\\s*[\\r\\n]+`) takes whitespace up to the last newline before any other alternative does.
    """

    pattern: str
    newlines: bool
    dummy_prefix: bool = False
    space: str = " "

    def escape(self, text: str) -> str:
        return text

    def can_split_between(self, before: str, after: str) -> bool:
        if not after or not before:
            return False
        if after[0] == " ":
            return not before[-1].isspace()
        return self.newlines and before[-1] == "\n" and not (after[0].isspace() or after[0] == "/")

    def can_split_at_spaces(self, text: str) -> bool:
        return _SPACE_AFTER_WHITESPACE.search(text) is None

    def split_at_space_runs(self, text: str) -> list[str]:
        return _BEFORE_SPACES.split(text)

    def split_word(self, word: str) -> list[str]:
        return (_BEFORE_PUNCTUATION_OR_AFTER_NEWLINE if self.newlines else _BEFORE_PUNCTUATION).split(word)

    def joinable(self, words: Sequence[str]) -> Sequence[str]:
        found = [word for word in words if word and not word[-1].isspace()]
        return found if is_version_independent(" ".join(found)) else list(filter(is_version_independent, found))


# Python also counts some control characters as whitespace; after them a possible split is missed.
_SPACE_AFTER_WHITESPACE = re.compile(r"\s ")
_BEFORE_SPACES = re.compile(r"(?<=\S)(?= )")
# Letters and digits in every version of Unicode: no match extends from one of them to punctuation except the apostrophe
# of contractions.
_AFTER_LETTER = "(?<=[A-Za-z0-9\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3])"
_BEFORE_PUNCTUATION = re.compile(rf"{_AFTER_LETTER}(?=[-.,!?:;)\"，。、！？；：])")
_BEFORE_PUNCTUATION_OR_AFTER_NEWLINE = re.compile(rf"{_BEFORE_PUNCTUATION.pattern}|(?<=\n)(?=[^\s/])")

# The alternatives of the patterns of GPT-2, cl100k, Llama-3, Qwen2, o200k and tekken, without possessive quantifiers.
_WORDS = [r"\p{L}+", r"[\p{L}\p{M}]+"]
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = [f"{_UPPER}*{_LOWER}+", f"{_UPPER}+{_LOWER}*"]
_CONTRACTIONS = ["(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)"]
_NEWLINES = r"\s*[\r\n]+"
_ALTERNATIVES = {
    *_CONTRACTIONS,
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"),
    *(f"{before}{word}" for before in (r"[^\r\n\p{L}\p{N}]?", " ?") for word in (*_WORDS, *_CASED)),
    *(rf"[^\r\n\p{{L}}\p{{N}}]?{word}{contraction}?" for word in _CASED for contraction in _CONTRACTIONS),
    *(r"\p{N}", r"\p{N}{1,3}", r" ?\p{N}+", r"\p{N}+"),
    *(r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"),
    *(_NEWLINES, r"\s+(?!\S)", r"\s+"),
}
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def sentencepiece_splitter(pieces: Sequence[str], *, dummy_prefix: bool) -> SentencePieceSplitter | None:
    """Make the splitter of a SentencePiece-BPE vocabulary; None if a piece has `▁` after another character."""
    joined = [piece for piece in pieces if len(piece) > 1]
    if any(METASPACE in piece.lstrip(METASPACE) for piece in joined):
        return None
    with_newline = [piece for piece in joined if "\n" in piece]
    return SentencePieceSplitter(
        dummy_prefix=dummy_prefix,
        newline_is_isolated=not with_newline,
        newline_ends_pieces=all("\n" not in piece.rstrip("\n") for piece in with_newline),
        separate_punctuation=_PUNCTUATION.difference(_AFTER_ALPHANUMERIC.findall("\n".join(joined))),
    )


def pattern_splitter(spec: dict[str, Any]) -> PatternSplitter | None:
    """Make the splitter of a byte-level `tokenizer.json`; None if its pipeline is not a known one."""
    model, step = spec["model"], spec.get("pre_tokenizer") or {}
    steps: list[dict[str, Any]] = step.get("pretokenizers") or [step]
    plain = model.get("type") == "BPE" and not any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    )
    # NFC composes nothing with a space or a newline, and moves no combining mark across one.
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
    newlines = alternatives.index(_NEWLINES) if _NEWLINES in alternatives else len(alternatives)
    takes_spaces_first = any(found.startswith(r"\s") for found in alternatives[:newlines])
    return PatternSplitter(pattern, newlines=newlines < len(alternatives) and not takes_spaces_first)


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
