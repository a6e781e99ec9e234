"""Determine the properties of a chat template by rendering test conversations.

A template that violates the rules is refused with the reason, since rows must match the prompts at inference time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from preprocess.templates.jinja.marks import Rendering, TextChangedError, render_marked
from preprocess.templates.jinja.sandbox import Messages, SandboxedTemplate, TemplateFault

# Test texts that change if a template escapes, splits or shortens texts.
_QUESTIONS = ('Is "a" <b> & {c}?\nYes\\no', "Und was 2?", "第三?")
_ANSWERS = ("It's {{1}} %d.\n\n- ä", "Zwei & <i>2</i>.", "三。")
_OTHER_ANSWER = "Nothing of that sort"
_SYSTEM = "Be <brief>."


class TemplateProperties(NamedTuple):
    """How a template treats turns.

    Attributes:
        takes_system: it supports a system text, at the same position whatever follows.
        marks_generation: it marks the supervised parts with {% generation %}.
        before_answer: whitespace between the generation prompt and the answer, which the model has to generate.
        trims_before, trims_after: whitespace before and after an answer is removed.
    """

    takes_system: bool
    marks_generation: bool
    before_answer: str
    trims_before: bool
    trims_after: bool


def special_pattern(added: Mapping[str, object]) -> re.Pattern[str]:
    """A pattern for the added tokens in the output of a template; the longest match wins, whitespace is text."""
    tokens = sorted((token for token in added if token.replace("▁", "").strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, tokens)) if tokens else "(?!)")


def end_of_turn(rendering: Rendering, special: re.Pattern[str], message: int) -> int | None:
    """The end position of the token that ends a message; None if no special token directly follows the text.

    Whitespace between text and token is ignored.
    """
    text, (_, end) = rendering.text, rendering.contents[message]
    following = rendering.contents[message + 1][0] if message + 1 < len(rendering.contents) else len(text)
    while end < following and text[end].isspace():
        end += 1
    found = special.match(text, end, following)
    return found.end() if found else None


def analyze(template: SandboxedTemplate, special: re.Pattern[str]) -> TemplateProperties:
    """Determine the properties of a template.

    Args:
        template: the template.
        special: see `special_pattern`.

    Raises:
        TemplateFault: the template cannot be used; the message gives the reason.
    """
    rounds = [_render(template, _conversation(count)) for count in (1, 2, 3)]
    ends = []
    for rendering in rounds:
        for message in range(1, len(rendering.contents), 2):
            end = end_of_turn(rendering, special, message)
            if end is None:
                raise TemplateFault(
                    "an answer is not followed by a special token of the tokenizer, so the end of a turn would not be "
                    "learned"
                )
            ends.append(end)
            if template.marks_generation:
                _check_generation(rendering, rendering.contents[message][0], end)
    for shorter, longer, end in zip(rounds, rounds[1:], (ends[0], ends[2]), strict=False):
        if not longer.text.startswith(shorter.text[:end]):
            raise TemplateFault(
                "it renders earlier turns differently when a later one is added, so rows would not match prompts"
            )
    header = _header(rounds[0])
    other = _render(template, [*_conversation(1)[:1], {"role": "assistant", "content": _OTHER_ANSWER}])
    if _header(other) != header:
        raise TemplateFault("the text that it writes before an answer depends on the answer")
    return TemplateProperties(
        takes_system=_takes_system(template, special),
        marks_generation=template.marks_generation,
        before_answer=_before_answer(template, header),
        trims_before=_answer_is_trimmed(template, header, before=True),
        trims_after=_answer_is_trimmed(template, header, before=False),
    )


def _conversation(rounds: int) -> list[dict[str, str]]:
    messages = []
    for question, answer in zip(_QUESTIONS[:rounds], _ANSWERS[:rounds], strict=True):
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def _render(template: SandboxedTemplate, messages: Messages) -> Rendering:
    try:
        return render_marked(template, messages)
    except TextChangedError as error:
        raise TemplateFault(f"it does not reproduce the texts of messages: {error}") from None


def _check_generation(rendering: Rendering, answer: int, end: int) -> None:
    for start, stop in rendering.generated:
        if start <= answer < stop or start == answer == stop:
            if stop < end:
                raise TemplateFault(
                    "its {% generation %} block does not include the end-of-turn token, so that token would not be "
                    "trained on; move {% endgeneration %} after it"
                )
            return
    raise TemplateFault("its {% generation %} blocks do not contain the answers")


def _header(rendering: Rendering) -> str:
    """The text between the first question and its answer."""
    return rendering.text[rendering.contents[0][1] : rendering.contents[1][0]]


def _takes_system(template: SandboxedTemplate, special: re.Pattern[str]) -> bool:
    system = {"role": "system", "content": _SYSTEM}
    try:
        one, two = (render_marked(template, [system, *_conversation(count)]) for count in (1, 2))
    except (TemplateFault, TextChangedError):
        return False
    end = end_of_turn(one, special, 2)
    return end is not None and two.text.startswith(one.text[:end])


def _before_answer(template: SandboxedTemplate, header: str) -> str:
    try:
        prompt = render_marked(template, _conversation(1)[:1], add_generation_prompt=True)
    except (TemplateFault, TextChangedError):
        return ""
    asked = prompt.text[prompt.contents[0][1] :]
    rest = header.removeprefix(asked)
    return rest if header.startswith(asked) and not rest.strip() else ""


def _answer_is_trimmed(template: SandboxedTemplate, header: str, *, before: bool) -> bool:
    whitespace = "\t \t"
    answer = whitespace + "Yes" if before else "Yes" + whitespace
    rendering = _render(template, [*_conversation(1)[:1], {"role": "assistant", "content": answer}])
    if before:
        return _header(rendering) == header
    return not rendering.text.startswith(whitespace, rendering.contents[1][1])
