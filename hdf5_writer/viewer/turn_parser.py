"""Separate the fixed texts of a template from the texts of the record, for display only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from hdf5_writer.viewer.decoding import Part
from preprocess.templates import CHAT_TEMPLATES, TEMPLATES
from preprocess.templates.chat import ChatTemplate, Piece, Pieces, Slot, Token
from preprocess.templates.llava import Template

Style = Literal["text", "system", "template", "special"]


class StyledText(NamedTuple):
    """A part of a conversation: text of the record, a system text, a fixed text of the template, or a special token."""

    style: Style
    text: str


@dataclass(frozen=True)
class ContextSpan:
    """Consecutive context tokens: between two images, two answers, or an image and an answer.

    Attributes:
        parts: its texts and special tokens.
        at_sample_start: whether it is at the start of the sample, or directly after the opening.
        after_opening: whether the opening precedes it.
        at_turn_start: whether no image is between it and the previous answer.
        at_turn_end: whether no image is between it and the next answer.
        after_only_image: whether it follows the only image of its sample, which the template may have moved.
    """

    parts: Sequence[Part]
    at_sample_start: bool
    after_opening: bool
    at_turn_start: bool
    at_turn_end: bool
    after_only_image: bool


class TurnParser(Protocol):
    """Separates the fixed texts of one template.

    Attributes:
        opening: start of every sample without its own system turn, up to the end of the system text; empty if the
            template has no system text.
        moves_images: whether the only image of a sample is moved to the front, followed by a newline.
    """

    opening: str
    moves_images: bool

    def parse(self, span: ContextSpan) -> list[StyledText]:
        """Split a span into fixed texts of the template and texts of the record."""


def turn_parser_of(style: str, system: str | None) -> TurnParser:
    """Return the parser for a template; for an unknown template, one that finds no fixed texts.

    Args:
        style: `dataset.system_prompt_style`.
        system: `dataset.system_prompt`, which replaces the template's system text.
    """
    if style in TEMPLATES:
        return LlavaTurnParser(TEMPLATES[style], system)
    return ChatTurnParser(CHAT_TEMPLATES.get(style), system)


class LlavaTurnParser:
    """Parser for templates of plain text: their fixed texts are searched at both ends of a turn."""

    moves_images = True

    def __init__(self, template: Template, system: str | None) -> None:
        """`system`: replaces the template's system text, unless None."""
        system = template.system if system is None else system
        first, _, self._first_tail = template.first_prompt.partition("{question}")
        self._before_system, _, self._after_system = first.partition("{system}")
        self._takes_system = template.takes_system
        self._later, _, self._later_tail = template.later_prompt.partition("{question}")
        self._before_image, _, self._after_image = template.image.partition("{image}")
        self.opening = self._before_system + system if self._takes_system and system else ""

    def parse(self, span: ContextSpan) -> list[StyledText]:
        """Remove the template's text from the start of the first text and from the end of the last text."""
        styled = [StyledText("special" if part.is_special else "text", part.text) for part in span.parts]
        texts = [i for i, part in enumerate(span.parts) if not part.is_special]
        if not texts:
            return styled
        head, system, text = self._split_head(span, span.parts[texts[0]].text)
        styled[texts[0]] = StyledText("text", text)
        tail = self._before_image
        if span.at_turn_end:
            tail = self._first_tail if span.at_sample_start else self._later_tail
        last = styled[texts[-1]].text
        if tail and last.endswith(tail):
            styled[texts[-1]] = StyledText("text", last.removesuffix(tail))
            styled.insert(texts[-1] + 1, StyledText("template", tail))
        styled[texts[0] : texts[0]] = [*system, StyledText("template", head)]
        return styled

    def _split_head(self, span: ContextSpan, text: str) -> tuple[str, list[StyledText], str]:
        """Return the template's text at the start of a text, the system text before it, and the rest."""
        system: list[StyledText] = []
        if not span.at_turn_start:
            newline = "\n" if span.after_only_image else ""
            heads = [self._after_image + newline, self._after_image]
        elif not span.at_sample_start:
            heads = [self._later]
        elif span.after_opening:
            heads = [self._after_system]
        else:
            system, text = self._own_system(text)
            heads = [self._after_system if self._takes_system else self._before_system]
        for head in heads:
            for words in (head + self._before_image, head) if span.at_turn_start else (head,):
                if text.startswith(words):
                    return words, system, text.removeprefix(words)
        return "", system, text

    def _own_system(self, text: str) -> tuple[list[StyledText], str]:
        """Return the record's own system text, if any, and the rest, from the fixed text before the first question."""
        own = text.removeprefix(self._before_system)
        at = own.find(self._after_system)
        if not self._takes_system or not text.startswith(self._before_system) or at < 0:
            return [], text
        return [StyledText("template", self._before_system), StyledText("system", own[:at])], own[at:]


class ChatTurnParser:
    """Parser for templates with special tokens, which texts of a record never contain: matches are unambiguous."""

    moves_images = False

    def __init__(self, template: ChatTemplate | None, system: str | None) -> None:
        """`template`: None for an unknown one; `system` as in `LlavaTurnParser`."""
        self.opening = ""
        self._after_answer: Pieces = ()
        blocks: list[tuple[Style, Pieces]] = []
        if template is not None:
            system = template.default_system if system is None else system
            system_block = template.system or ()
            if system_block and system is not None:
                self.opening = "".join(map(_spelled(system), (*template.opening, *system_block)))
            styles: tuple[Style, ...] = ("system", "text")
            for style, block in zip(styles, (system_block, template.user), strict=True):
                at = block.index(Slot.TEXT) if block else 0
                blocks += [(style, block[:at]), ("text", block[at + 1 :])]
            blocks.append(("text", template.answer_header))
            self._after_answer = template.after_answer
        # If two blocks start with the same pieces, the longer one must be tried first.
        self._blocks = sorted((block for block in blocks if block[1]), key=lambda block: -len(block[1]))

    def parse(self, span: ContextSpan) -> list[StyledText]:
        """Match the template's blocks in order; all other parts are texts of the record."""
        styled: list[StyledText] = []
        blocks = list(self._blocks)
        if span.at_turn_start and not span.at_sample_start and self._after_answer:
            blocks.append(("text", self._after_answer))
        at = 0
        while at < len(span.parts):
            for style, block in blocks:
                found = _match(block, span.parts[at:])
                if found is not None:
                    words, taken, rest = found
                    styled += [*words, *([StyledText(style, rest)] if rest else [])]
                    at += taken
                    break
            else:
                part = span.parts[at]
                styled.append(StyledText("special" if part.is_special else "text", part.text))
                at += 1
            blocks = self._blocks
        return styled


def _spelled(text: str) -> Callable[[Piece], str]:
    return lambda piece: piece.spelling if isinstance(piece, Token) else piece if isinstance(piece, str) else text


def _match(block: Pieces, parts: Sequence[Part]) -> tuple[list[StyledText], int, str] | None:
    """Match a block at the start of some parts; return its texts, the number of parts used, and the rest of the last.

    Whitespace of the template may be missing, since some special tokens strip adjacent whitespace.
    """
    words: list[StyledText] = []
    taken, rest = 0, ""
    for piece in block:
        following = parts[taken] if taken < len(parts) else None
        if isinstance(piece, Token):
            if rest or following is None or not following.is_special or following.text != piece.spelling:
                return None
            words.append(StyledText("special", piece.spelling))
            taken += 1
            continue
        assert isinstance(piece, str)
        if not rest and following is not None and not following.is_special:
            rest = following.text
            taken += 1
        if rest.startswith(piece):
            words.append(StyledText("template", piece))
            rest = rest.removeprefix(piece)
        elif piece.strip():
            return None
    return (words, taken, rest) if taken else None
