"""What a template writes around questions, to show it apart from what a person wrote. For display only."""

from __future__ import annotations

from typing import NamedTuple

from preprocess.templates import TEMPLATES


class Framed(NamedTuple):
    """A text cut in three; `head` and `tail` are empty where the template's words were not found."""

    head: str
    text: str
    tail: str


class ChatFrames:
    """The words of one template; of an unknown one there are none, and texts stay whole."""

    def __init__(self, style: str) -> None:
        """`style`: `dataset.system_prompt_style`."""
        heads, tails = {""}, {""}
        template = TEMPLATES.get(style)
        if template is not None:
            image_head, _, image_tail = template.image.partition("{image}")
            for prompt in (template.first_prompt, template.later_prompt):
                head, _, tail = prompt.replace("{system}", template.system).partition("{question}")
                # The newline is what the authors put between the image and the first question.
                heads |= {head, head + image_head, f"{image_tail}\n"}
                tails.add(tail)
        self._heads = sorted(heads, key=len, reverse=True)
        self._tails = sorted(tails, key=len, reverse=True)

    def cut(self, text: str) -> Framed:
        """Cut one run of context."""
        head = next(head for head in self._heads if text.startswith(head))
        rest = text[len(head) :]
        tail = next(tail for tail in self._tails if rest.endswith(tail))
        return Framed(head, rest[: len(rest) - len(tail)], tail)
