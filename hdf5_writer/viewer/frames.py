"""What a template writes around questions, to show it apart from what a person wrote. For display only."""

from __future__ import annotations

from typing import NamedTuple

from hdf5_writer.viewer.decoding import Speller
from preprocess.templates import CHAT_TEMPLATES, TEMPLATES
from preprocess.templates.chat import ChatTemplate, Slot, Token


class Framed(NamedTuple):
    """A text cut in three; `head` and `tail` are empty where the template's words were not found."""

    head: str
    text: str
    tail: str


class ChatFrames:
    """The words of one template; of an unknown one there are none, and texts stay whole.

    Attributes:
        opening: how every row begins, up to the end of the system prompt; empty where the template has none.
    """

    def __init__(self, style: str) -> None:
        """`style`: `dataset.system_prompt_style`."""
        self.opening = ""
        heads, tails = {""}, {""}
        template = TEMPLATES.get(style)
        if template is not None:
            image_head, _, image_tail = template.image.partition("{image}")
            if template.system:
                self.opening = template.first_prompt.partition("{system}")[0] + template.system
            for prompt in (template.first_prompt, template.later_prompt):
                head, _, tail = prompt.replace("{system}", template.system).partition("{question}")
                # The newline is what the authors put between the image and the first question.
                for start in (head, head.removeprefix(self.opening)):
                    heads |= {start, start + image_head}
                heads.add(f"{image_tail}\n")
                tails.add(tail)
        elif style in CHAT_TEMPLATES:
            found_heads, found_tails = _frames_of(CHAT_TEMPLATES[style])
            heads |= found_heads
            tails |= found_tails
        self._heads = sorted(heads, key=len, reverse=True)
        self._tails = sorted(tails, key=len, reverse=True)

    def cut(self, text: str) -> Framed:
        """Cut one run of context."""
        head = next(head for head in self._heads if text.startswith(head))
        rest = text[len(head) :]
        tail = next(tail for tail in self._tails if rest.endswith(tail))
        return Framed(head, rest[: len(rest) - len(tail)], tail)

    def opening_tokens(self, ids: tuple[int, ...], speller: Speller) -> int:
        """How many of a row's first tokens are its opening; 0 where no number of tokens spells just that."""
        for count in range(1, len(ids) + 1 if self.opening else 1):
            text = "".join(part.text for part in speller.parts(ids[:count], True) if not part.is_special)
            if text == self.opening:
                return count
            if not self.opening.startswith(text.rstrip("\N{REPLACEMENT CHARACTER}")):
                break
        return 0


def _frames_of(template: ChatTemplate) -> tuple[set[str], set[str]]:
    """What stands before and behind a text, between it and the next special tokens; where there is none, it is a head.

    A token that takes the blanks behind it leaves the template's newlines out.
    """
    heads: set[str] = set()
    tails: set[str] = set()
    for pieces in (template.system, template.user, template.answer_header, template.behind_answer):
        head, behind_text = "", False
        for piece in (*(pieces or ()), Token("")):
            if piece is Slot.TEXT:
                heads |= {head, head + (template.default_system or "")} if pieces is template.system else {head}
                head, behind_text = "", True
            elif isinstance(piece, Token):
                (tails if behind_text else heads).add(head)
                head, behind_text = "", False
            elif isinstance(piece, str):
                head += piece
    return heads, tails
