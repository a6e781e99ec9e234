"""Chat templates of today's language models: pieces of text and special tokens around the turns of a conversation.

The rule: role headers, system and user text are not supervised; the answer and its end-of-turn token are; what follows
that token is not. A new template is one more entry in `preprocess/templates/named.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from preprocess.conversation import Conversation, TemplateTraits
from preprocess.segments import Mark, Segment, Special, Text
from preprocess.templates.outline import BLANKS, Outline, Part, Place, make_outline
from preprocess.templates.renderer import Renderer
from preprocess.tokenize.tokenizer import AddedToken, Tokenizer

# Numbers of rounds whose outline is kept.
_MOST_OUTLINES = 200


class Token(NamedTuple):
    """A special token of the tokenizer, by how it is spelled."""

    spelling: str


class Slot(Enum):
    """The place of what a record says: a system text, a question or an answer."""

    TEXT = "text"


Piece = str | Token | Slot
Pieces = tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """How a conversation is written down.

    Attributes:
        opening, closing: what begins and ends every conversation.
        user: a user turn.
        answer_header: what stands before an answer and is not supervised.
        answer: an answer up to and including its end-of-turn token, all of it supervised.
        behind_answer: what follows the end-of-turn token.
        system: the block of a system text, behind the opening; None where the template has none.
        default_system: the system text of a record that has none; None leaves the block out.
        system_in_last_question: the system text is put before the last question instead, with this between the two.
        strips_questions, strips_answers: the blanks around such a turn, and around a system text, are left out.
    """

    opening: Pieces = ()
    user: Pieces
    answer_header: Pieces = ()
    answer: Pieces
    behind_answer: Pieces = ()
    closing: Pieces = ()
    system: Pieces | None = None
    default_system: str | None = None
    system_in_last_question: str | None = None
    strips_questions: bool = False
    strips_answers: bool = False

    @property
    def takes_system(self) -> bool:
        """There is a place for a system text."""
        return self.system is not None or self.system_in_last_question is not None


_Resolved = tuple[str | tuple[Special, AddedToken] | Slot, ...]


class ChatRenderer(Renderer):
    """A template with the tokens of one tokenizer."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer, system: str | None, needed_by: str) -> None:
        """Look up the template's tokens.

        Args:
            template: the template.
            tokenizer: has the tokens.
            system: stands instead of the template's own default; None for that one.
            needed_by: what names the template, for messages.

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
        self._behind_answer = resolved(template.behind_answer)
        # Of conversations with a system block or without, by the number of their rounds.
        self._outlines: dict[tuple[bool, int], Outline | None] = {}

    def render(self, conversation: Conversation) -> list[Segment]:
        """The whole conversation."""
        texts, has_system_block = self._texts(conversation)
        key = has_system_block, len(conversation.rounds)
        if key not in self._outlines:
            if len(self._outlines) == _MOST_OUTLINES:
                self._outlines.clear()
            self._outlines[key] = make_outline(self._parts(*key))
        outline = self._outlines[key]
        if outline is None:
            return self._built(conversation)
        found: list[Segment] = []
        number = 0
        for part in outline:
            if isinstance(part, Place):
                part.fill(found, *texts[number])
                number += 1
            else:
                found.append(part)
        return found

    def _texts(self, conversation: Conversation) -> tuple[list[tuple[str, str]], bool]:
        """The texts of a conversation as they are written, in order, and whether the first is a system block's.

        Each comes with what stands for an image in it; only questions hold images.
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
        """What is written for a conversation of so many rounds; None is the place of a text."""
        one_round = (self._user, self._answer_header, self._answer, self._behind_answer)
        for pieces in (self._opening, *(self._system,) * has_system_block, *one_round * rounds, self._closing):
            supervised = pieces is self._answer
            for piece in pieces:
                yield None if isinstance(piece, Slot) else piece, supervised

    def _built(self, conversation: Conversation) -> list[Segment]:
        """The whole conversation, for a template without an outline."""
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
    """Makes segments of texts and tokens, with neighbouring texts joined.

    A special token takes the blanks beside it where the tokenizer says so: they are left out, as `tokenizers` does
    when it reads a prompt (`lstrip` and `rstrip` of an added token).
    """

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._drops_blanks = False

    def text(self, text: str, *, supervised: bool, constant: bool) -> None:
        """Add a text; `constant` where it is the template's own."""
        if self._drops_blanks:
            text = text.lstrip(BLANKS)
            self._drops_blanks = not text
        if not text:
            return
        last = self._segments[-1] if self._segments else None
        if isinstance(last, Text) and last.supervised == supervised:
            self._segments[-1] = Text(last.text + text, supervised, last.constant and constant)
        else:
            self._segments.append(Text(text, supervised, constant))

    def special(self, segment: Special, token: AddedToken) -> None:
        """Add a special token."""
        if token.takes_blanks_before:
            while self._segments and isinstance(last := self._segments[-1], Text):
                kept = last.text.rstrip(BLANKS)
                if kept:
                    self._segments[-1] = last._replace(text=kept)
                    break
                self._segments.pop()
        self._segments.append(segment)
        self._drops_blanks = token.takes_blanks_behind

    def image(self) -> None:
        """Add the place of an image."""
        self._segments.append(Mark.IMAGE_TOKEN)
        self._drops_blanks = False

    def segments(self) -> list[Segment]:
        """What was added."""
        return self._segments
