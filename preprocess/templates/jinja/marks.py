"""Find which parts of a rendering are texts of messages and which are text of the template.

Each content is rendered between two marker characters. Special tokens are searched for only in the template's text, so
that neither a text of a record nor its concatenation with the template's text becomes one. A second rendering without
markers must give the same text; this detects templates that inspect or change the texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from preprocess.templates.jinja.sandbox import (
    GENERATION_BEGINS,
    GENERATION_ENDS,
    Messages,
    SandboxedTemplate,
    TemplateFault,
)

# Unicode noncharacters, as in `sandbox.py`.
_BEGINS, _ENDS = "\ufdd2", "\ufdd3"
_MARK = re.compile("[\ufdd0-\ufdd3]")
Span = tuple[int, int]


class TextChangedError(Exception):
    """The template does not reproduce each message text once and in order; the error message names the text."""


class Rendering(NamedTuple):
    """A rendered conversation.

    Attributes:
        text: the complete text.
        contents: for each message, the span of its text without surrounding whitespace.
        generated: the spans that the template marks with {% generation %}, ascending.
    """

    text: str
    contents: list[Span]
    generated: list[Span]


def render_marked(template: SandboxedTemplate, messages: Messages, *, add_generation_prompt: bool = False) -> Rendering:
    """Render messages and find their texts.

    Raises:
        TemplateFault: see `SandboxedTemplate.render`; or a text contains a marker character.
        TextChangedError: a text was changed, is missing, or is out of order.
    """
    cores = []
    marked = []
    for message in messages:
        content = message["content"]
        if found := _MARK.search(content):
            raise TemplateFault(f"a text contains the noncharacter U+{ord(found[0]):04X}, which is reserved")
        core = content.strip()
        before, after = content.split(core, 1) if core else (content, "")
        cores.append(core)
        marked.append({**message, "content": f"{before}{_BEGINS}{core}{_ENDS}{after}"})
    rendering = _parsed(template.render(marked, add_generation_prompt=add_generation_prompt))
    for message, core, (start, end) in zip(messages, cores, rendering.contents, strict=False):
        if rendering.text[start:end] != core:
            raise TextChangedError(f"the text of the {message['role']} is changed or out of order")
    if len(rendering.contents) != len(messages):
        lost = messages[min(len(rendering.contents), len(messages) - 1)]["role"]
        raise TextChangedError(f"the text of the {lost} does not occur exactly once")
    plain = _MARK.sub("", template.render(messages, add_generation_prompt=add_generation_prompt))
    if plain != rendering.text:
        raise TextChangedError("the output depends on the contents of a text")
    return rendering


def _parsed(marked: str) -> Rendering:
    parts: list[str] = []
    contents: list[Span] = []
    generated: list[Span] = []
    length = begins = generation_begins = last = 0
    for mark in _MARK.finditer(marked):
        part = marked[last : mark.start()]
        parts.append(part)
        length += len(part)
        last = mark.end()
        if mark[0] == _BEGINS:
            begins = length
        elif mark[0] == _ENDS:
            contents.append((begins, length))
        elif mark[0] == GENERATION_BEGINS:
            generation_begins = length
        elif mark[0] == GENERATION_ENDS:
            generated.append((generation_begins, length))
    parts.append(marked[last:])
    return Rendering("".join(parts), contents, generated)


def gaps(contents: Sequence[Span], length: int) -> list[Span]:
    """The spans before, between and after the contents: one more than contents."""
    starts = [0, *(end for _, end in contents)]
    ends = [*(start for start, _ in contents), length]
    return list(zip(starts, ends, strict=True))
