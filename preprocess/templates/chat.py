"""Chat templates of current language models: text and special tokens around the turns of a conversation.

Role headers, system and user texts are not supervised; the answer and its end-of-turn token are; text after that token
is not. To add a template, add an entry to `preprocess/templates/named.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from preprocess.conversation import Conversation, TemplateTraits
from preprocess.segments import Mark, Segment, Special, Text
from preprocess.templates.outline import WHITESPACE, Outline, Part, Placeholder, make_outline
from preprocess.templates.renderer import Renderer
from preprocess.tokenize.tokenizer import AddedToken, Tokenizer

# Outlines are cached for up to this many numbers of rounds.
_MAX_OUTLINES = 200


class Token(NamedTuple):
    """A special token of the tokenizer, by its text."""

    spelling: str


class Slot(Enum):
    """Placeholder for a text of the record: a system text, a question or an answer."""

    TEXT = "text"


Piece = str | Token | Slot
Pieces = tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """The format of a conversation.

    Attributes:
        opening, closing: written at the beginning and end of every conversation.
        user: a user turn.
        answer_header: written before an answer, not supervised.
        answer: an answer up to and including its end-of-turn token, supervised.
        after_answer: written after the end-of-turn token, not supervised.
        system: the block of a system text, after the opening; None if the template has none.
        default_system: the system text for a record without one; None omits the block.
        system_in_last_question: instead of a block, put the system text before the last question, with this separator.
        strips_questions, strips_answers: strip whitespace around such turns; either also strips system texts.
    """

    opening: Pieces = ()
    user: Pieces
    answer_header: Pieces = ()
    answer: Pieces
    after_answer: Pieces = ()
    closing: Pieces = ()
    system: Pieces | None = None
    default_system: str | None = None
    system_in_last_question: str | None = None
    strips_questions: bool = False
    strips_answers: bool = False

    @property
    def takes_system(self) -> bool:
        """Whether the template supports a system text."""
        return self.system is not None or self.system_in_last_question is not None


_Resolved = tuple[str | tuple[Special, AddedToken] | Slot, ...]


class ChatRenderer(Renderer):
    """A template whose tokens were looked up in one tokenizer."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, system: str | None, needed_by: str) -> None:
        """Look up the template's tokens.

        Args:
            template: the template.
            tokenizer: the tokenizer to look them up in.
            system: replaces the template's default system text; None keeps it.
            needed_by: the setting that names the template, for messages.

        Raises:
            ConfigError: the tokenizer lacks a token.
        """

        def resolved(pieces: Pieces | None, supervised: bool = False) -> _Resolved:
            found: list[str | tuple[Special, AddedToken] | Slot] = []
            for piece in pieces or ():
                if isinstance(piece, Token):
                    token = tokenizer.require_token(piece.spelling, needed_by)
                    found.append((Special(token.id, supervised, token.starts_text), token))
                else:
                    found.append(piece)
            return tuple(found)

        self._template = template
        self.traits = TemplateTraits(image_in_front=False, takes_system=template.takes_system, keeps_empty_answers=True)
        self._default_system = template.default_system if system is None else system
        self._opening, self._closing = resolved(template.opening), resolved(template.closing)
        self._system, self._user = resolved(template.system), resolved(template.user)
        self._answer_header, self._answer = resolved(template.answer_header), resolved(template.answer, True)
        self._after_answer = resolved(template.after_answer)
        # Cached by whether there is a system block, and the number of rounds.
        self._outlines: dict[tuple[bool, int], Outline | None] = {}

    def render(self, conversation: Conversation) -> list[Segment]:
        """The segments of the conversation."""
        texts, has_system_block = self._texts(conversation)
        key = has_system_block, len(conversation.rounds)
        if key not in self._outlines:
            if len(self._outlines) == _MAX_OUTLINES:
                self._outlines.clear()
            self._outlines[key] = make_outline(self._parts(*key))
        outline = self._outlines[key]
        if outline is None:
            return self._built(conversation)
        found: list[Segment] = []
        number = 0
        for part in outline:
            if isinstance(part, Placeholder):
                part.fill(found, *texts[number])
                number += 1
            else:
                found.append(part)
        return found

    def _texts(self, conversation: Conversation) -> tuple[list[tuple[str, str]], bool]:
        """The texts of a conversation in order, and whether the first belongs to a system block.

        Each text comes with its image token, which is empty except for questions.
        """
        template = self._template
        system = self._default_system if conversation.system is None else conversation.system
        if system is not None and template.strips_questions:
            system = system.strip()
        has_block = system is not None and template.system is not None
        texts = [(system, "")] if has_block and system is not None else []
        for question, answer in conversation.rounds:
            texts.append((question.strip() if template.strips_questions else question, conversation.image_token))
            texts.append((answer.strip() if template.strips_answers else answer, ""))
        if system is not None and template.system_in_last_question is not None:
            question, token = texts[-2]
            texts[-2] = system + template.system_in_last_question + question, token
        return texts, has_block

    def _parts(self, has_system_block: bool, rounds: int) -> Iterator[Part]:
        """The parts of a conversation with this number of rounds; None is the place of a text."""
        one_round = (self._user, self._answer_header, self._answer, self._after_answer)
        for pieces in (self._opening, *(self._system,) * has_system_block, *one_round * rounds, self._closing):
            supervised = pieces is self._answer
            for piece in pieces:
                yield None if isinstance(piece, Slot) else piece, supervised

    def _built(self, conversation: Conversation) -> list[Segment]:
        """The segments of the conversation, for a template without an outline."""
        texts, has_system_block = self._texts(conversation)
        out, number = SegmentBuilder(), 0
        for piece, supervised in self._parts(has_system_block, len(conversation.rounds)):
            if isinstance(piece, tuple):
                out.special(*piece)
            elif piece is not None:
                out.text(piece, supervised=supervised, constant=True)
            else:
                text, token = texts[number]
                for image, part in enumerate(text.split(token) if token else [text]):
                    if image:
                        out.image()
                    out.text(part, supervised=supervised, constant=False)
                number += 1
        return out.segments()


class SegmentBuilder:
    """Builds segments from texts and tokens, and joins adjacent texts.

    Whitespace next to a special token is dropped if the tokenizer says so (`lstrip` and `rstrip` of an added token), as
    `tokenizers` does when it encodes a prompt.
    """

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._strips_leading = False

    def text(self, text: str, *, supervised: bool, constant: bool) -> None:
        """Add a text; `constant` if it belongs to the template."""
        if self._strips_leading:
            text = text.lstrip(WHITESPACE)
            self._strips_leading = not text
        if not text:
            return
        last = self._segments[-1] if self._segments else None
        if isinstance(last, Text) and last.supervised == supervised:
            self._segments[-1] = Text(last.text + text, supervised, last.constant and constant)
        else:
            self._segments.append(Text(text, supervised, constant))

    def special(self, segment: Special, token: AddedToken) -> None:
        """Add a special token."""
        if token.lstrip:
            while self._segments and isinstance(last := self._segments[-1], Text):
                kept = last.text.rstrip(WHITESPACE)
                if kept:
                    self._segments[-1] = last._replace(text=kept)
                    break
                self._segments.pop()
        self._segments.append(segment)
        self._strips_leading = token.rstrip

    def image(self) -> None:
        """Add an image."""
        self._segments.append(Mark.IMAGE_TOKEN)
        self._strips_leading = False

    def segments(self) -> list[Segment]:
        """The segments added so far."""
        return self._segments
