"""What a chat template does, found out once by rendering conversations that are made up here.

A template that these rules do not fit is refused, with the reason: what a row teaches must be what the model is asked
for later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from preprocess.templates.jinja.marks import Rendering, TextChangedError, render_marked
from preprocess.templates.jinja.sandbox import Messages, SandboxedTemplate, TemplateFault

# Texts that a template which escapes, splits or shortens them would change.
_QUESTIONS = ('Is "a" <b> & {c}?\nYes\\no', "Und was 2?", "第三?")
_ANSWERS = ("It's {{1}} %d.\n\n- ä", "Zwei & <i>2</i>.", "三。")
_OTHER_ANSWER = "Nothing of that sort"
_SYSTEM = "Be <brief>."


class Learned(NamedTuple):
    """How a template treats turns.

    Attributes:
        takes_system: it writes a system text, at the same place whatever follows.
        marks_generation: it says itself which parts are to learn.
        before_answer: blanks of the template's own that a model has to write before an answer: they stand behind the
            generation prompt.
        trims_before, trims_behind: the blanks before and behind an answer are left out.
    """

    takes_system: bool
    marks_generation: bool
    before_answer: str
    trims_before: bool
    trims_behind: bool


def special_pattern(added: Mapping[str, object]) -> re.Pattern[str]:
    """Finds the added tokens in what a template writes, of several the longest; blanks are text."""
    tokens = sorted((token for token in added if token.replace("▁", "").strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, tokens)) if tokens else "(?!)")


def end_of_turn(rendering: Rendering, special: re.Pattern[str], message: int) -> int | None:
    """Where the token that ends a message ends; None where no special token directly follows the text.

    Blanks between the two do not count.
    """
    text, (_, end) = rendering.text, rendering.contents[message]
    following = rendering.contents[message + 1][0] if message + 1 < len(rendering.contents) else len(text)
    while end < following and text[end].isspace():
        end += 1
    found = special.match(text, end, following)
    return found.end() if found else None


def learn(template: SandboxedTemplate, special: re.Pattern[str]) -> Learned:
    """Find out what a template does.

    Args:
        template: the template.
        special: see `special_pattern`.

    Raises:
        TemplateFault: it cannot be used; the message says why.
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
                "it writes earlier turns otherwise once a later one is added, so a row would not be what the model sees"
            )
    header = _header(rounds[0])
    other = _render(template, [*_conversation(1)[:1], {"role": "assistant", "content": _OTHER_ANSWER}])
    if _header(other) != header:
        raise TemplateFault("what it writes before an answer depends on the answer")
    return Learned(
        takes_system=_takes_system(template, special),
        marks_generation=template.marks_generation,
        before_answer=_before_answer(template, header),
        trims_before=_answer_is_trimmed(template, header, before=True),
        trims_behind=_answer_is_trimmed(template, header, before=False),
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
        raise TemplateFault(f"it does not write what is said: {error}") from None


def _check_generation(rendering: Rendering, answer: int, end: int) -> None:
    for start, stop in rendering.generated:
        if start <= answer < stop or start == answer == stop:
            if stop < end:
                raise TemplateFault(
                    "its {% generation %} ends before the token that ends the turn, so that would not be learned; move "
                    "{% endgeneration %} behind it"
                )
            return
    raise TemplateFault("its {% generation %} does not hold the answers")


def _header(rendering: Rendering) -> str:
    """What stands between the first question and its answer."""
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
    blanks = "\t \t"
    answer = blanks + "Yes" if before else "Yes" + blanks
    rendering = _render(template, [*_conversation(1)[:1], {"role": "assistant", "content": answer}])
    if before:
        return _header(rendering) == header
    return not rendering.text.startswith(blanks, rendering.contents[1][1])
