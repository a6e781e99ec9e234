"""Which stretches of a rendering are texts of the messages, and which the template's own words.

Each content is rendered between two marks. So a special token is only looked for in what the template writes, and
none is ever made of a record's text, nor of that text and the template's together. A second rendering, without
marks, must give the same text: a template that looks into the texts, or changes them, is found by that.
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

# Noncharacters, as those of `sandbox.py`.
_BEGINS, _ENDS = "\ufdd2", "\ufdd3"
_MARK = re.compile("[\ufdd0-\ufdd3]")
Span = tuple[int, int]


class TextChangedError(Exception):
    """The template does not give the texts of the messages back, each once and in order; the message says which."""


class Rendering(NamedTuple):
    """A conversation as a template writes it.

    Attributes:
        text: the whole.
        contents: for each message, where its text is, without the blanks around it.
        generated: what the template marks with {% generation %}, ascending.
    """

    text: str
    contents: list[Span]
    generated: list[Span]


def render_marked(template: SandboxedTemplate, messages: Messages, *, add_generation_prompt: bool = False) -> Rendering:
    """Render messages and find their texts.

    Raises:
        TemplateFault: see `SandboxedTemplate.render`; a text holds one of the marks.
        TextChangedError: a text is not there as it is, or not in its place among the others.
    """
    cores = []
    marked = []
    for message in messages:
        content = message["content"]
        if found := _MARK.search(content):
            raise TemplateFault(f"a text holds U+{ord(found[0]):04X}, which is no character and marks texts here")
        core = content.strip()
        before, behind = content.split(core, 1) if core else (content, "")
        cores.append(core)
        marked.append({**message, "content": f"{before}{_BEGINS}{core}{_ENDS}{behind}"})
    rendering = _parsed(template.render(marked, add_generation_prompt=add_generation_prompt))
    for message, core, (start, end) in zip(messages, cores, rendering.contents, strict=False):
        if rendering.text[start:end] != core:
            raise TextChangedError(f"the text of the {message['role']} is not there as it is, or not in its order")
    if len(rendering.contents) != len(messages):
        lost = messages[min(len(rendering.contents), len(messages) - 1)]["role"]
        raise TextChangedError(f"the text of the {lost} is not there once")
    plain = _MARK.sub("", template.render(messages, add_generation_prompt=add_generation_prompt))
    if plain != rendering.text:
        raise TextChangedError("what it writes depends on what is in a text")
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
    """The stretches between contents, from the start of the text to its end: one more than contents."""
    starts = [0, *(end for _, end in contents)]
    ends = [*(start for start, _ in contents), length]
    return list(zip(starts, ends, strict=True))
