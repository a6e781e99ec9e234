"""Chat templates of today's language models: pieces of text and special tokens around the turns of a conversation.

The rule: role headers, system and user text are not supervised; the answer and its end-of-turn token are; what follows
that token is not. A new template is one more entry in `preprocess/templates/named.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from preprocess.conversation import Conversation, TemplateTraits
from preprocess.segments import Mark, Segment, Special, Text
from preprocess.templates.renderer import Renderer
from preprocess.tokenize.tokenizer import AddedToken, Tokenizer

# What `\s` is to `tokenizers`, whose added tokens take such characters in (Unicode's White_Space).
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


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

    def render(self, conversation: Conversation) -> list[Segment]:
        """The whole conversation."""
        template = self._template
        out = SegmentBuilder()
        system = self._default_system if conversation.system is None else conversation.system
        if system is not None and template.strips_questions:
            system = system.strip()
        last, in_last = len(conversation.rounds) - 1, template.system_in_last_question
        _write(out, self._opening)
        if system is not None and template.system is not None:
            _write(out, self._system, system)
        for number, (question, answer) in enumerate(conversation.rounds):
            if template.strips_questions:
                question = question.strip()
            if number == last and system is not None and in_last is not None:
                question = system + in_last + question
            _write(out, self._user, question, image_token=conversation.image_token)
            _write(out, self._answer_header)
            _write(out, self._answer, answer.strip() if template.strips_answers else answer, supervised=True)
            _write(out, self._behind_answer)
        _write(out, self._closing)
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
            text = text.lstrip(_BLANKS)
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
                kept = last.text.rstrip(_BLANKS)
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


def _write(
    out: SegmentBuilder, pieces: Iterable[object], text: str = "", *, supervised: bool = False, image_token: str = ""
) -> None:
    """Add pieces, with `text` in their slot and an image for each image token in it."""
    for piece in pieces:
        if isinstance(piece, str):
            out.text(piece, supervised=supervised, constant=True)
        elif isinstance(piece, tuple):
            out.special(*piece)
        elif not image_token:
            out.text(text, supervised=supervised, constant=False)
        else:
            for number, part in enumerate(text.split(image_token)):
                if number:
                    out.image()
                out.text(part, supervised=supervised, constant=False)
