"""Render a Jinja chat template to segments, supervised as in `preprocess/templates/chat.py`."""

from __future__ import annotations

import datetime
from bisect import bisect_right
from collections.abc import Iterator

from preprocess.conversation import Conversation, TemplateTraits
from preprocess.rejects import Reason, Rejected
from preprocess.segments import Segment, Special
from preprocess.templates.chat import SegmentBuilder
from preprocess.templates.jinja.analysis import TemplateProperties, analyze, end_of_turn, special_pattern
from preprocess.templates.jinja.marks import Rendering, Span, TextChangedError, gaps, render_marked
from preprocess.templates.jinja.sandbox import SandboxedTemplate, TemplateFault
from preprocess.templates.jinja.source import TemplateSource
from preprocess.templates.renderer import Renderer
from preprocess.tokenize.tokenizer import Tokenizer


class JinjaRenderer(Renderer):
    """A template with the tokens of one tokenizer. Not thread-safe."""

    def __init__(self, source: TemplateSource, tokenizer: Tokenizer, system: str | None, date: datetime.date) -> None:
        """Compile the template and determine its properties.

        Args:
            source: the template.
            tokenizer: its added tokens are the special tokens in a rendering.
            system: the system text of records without one; None uses the template's default.
            date: the date for `strftime_now`.

        Raises:
            TemplateFault: the template cannot be used.
        """
        self._template = SandboxedTemplate(source.text, source.variables, date)
        self._added = tokenizer.added
        self._special = special_pattern(tokenizer.added)
        self._properties: TemplateProperties = analyze(self._template, self._special)
        self._default_system = system
        self.traits = TemplateTraits(
            image_in_front=False, takes_system=self._properties.takes_system, keeps_empty_answers=True
        )

    def render(self, conversation: Conversation) -> list[Segment]:
        """The segments of the conversation.

        Raises:
            Rejected: CHAT_TEMPLATE_FAILED or CHAT_TEMPLATE_CHANGES_TEXT.
        """
        system = self._default_system if conversation.system is None else conversation.system
        messages = [] if system is None else [{"role": "system", "content": system}]
        for question, answer in conversation.rounds:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        try:
            rendering = render_marked(self._template, messages)
        except TemplateFault as error:
            raise Rejected(Reason.CHAT_TEMPLATE_FAILED, f"the chat template fails: {error}") from None
        except TextChangedError as error:
            raise Rejected(Reason.CHAT_TEMPLATE_CHANGES_TEXT, f"the chat template changes texts: {error}") from None
        first_answer = 1 if system is None else 2
        answers = range(first_answer, len(messages), 2)
        supervised = self._supervised(rendering, [messages[i]["content"] for i in answers], answers)
        return self._segments(rendering, supervised, conversation.image_token)

    def _supervised(self, rendering: Rendering, texts: list[str], answers: range) -> list[Span]:
        properties, spans = self._properties, []
        if properties.marks_generation:
            return rendering.generated
        for text, message in zip(texts, answers, strict=True):
            start, _ = rendering.contents[message]
            whitespace = properties.before_answer
            if not properties.trims_before:
                whitespace += text[: len(text) - len(text.lstrip())]
            end = end_of_turn(rendering, self._special, message)
            if end is None or not rendering.text.endswith(whitespace, 0, start):
                what = (
                    "the answer does not end with a special token"
                    if end is None
                    else "it moves the answer's whitespace"
                )
                raise Rejected(Reason.CHAT_TEMPLATE_CHANGES_TEXT, f"the chat template changes texts: {what}")
            spans.append((start - len(whitespace), end))
        return spans

    def _segments(self, rendering: Rendering, supervised: list[Span], image_token: str) -> list[Segment]:
        text, contents = rendering.text, rendering.contents
        borders = [border for span in supervised for border in span]
        out = SegmentBuilder()

        def add(start: int, end: int, constant: bool) -> None:
            while start < end:
                passed = bisect_right(borders, start)
                stop = min(end, borders[passed]) if passed < len(borders) else end
                out.text(text[start:stop], supervised=passed % 2 == 1, constant=constant)
                start = stop

        for number, gap in enumerate(gaps(contents, len(text))):
            at = gap[0]
            for start, end in self._tokens(text, gap):
                add(at, start, True)
                token = self._added[text[start:end]]
                is_supervised = bisect_right(borders, start) % 2 == 1
                out.special(Special(token.id, is_supervised, token.starts_text), token)
                at = end
            add(at, gap[1], True)
            if number == len(contents):
                break
            start, end = contents[number]
            if image_token:
                for image in _places(text, image_token, start, end):
                    add(start, image, False)
                    out.image()
                    start = image + len(image_token)
            add(start, end, False)
        return out.segments()

    def _tokens(self, text: str, gap: Span) -> Iterator[Span]:
        for found in self._special.finditer(text, *gap):
            yield found.span()


def _places(text: str, part: str, start: int, end: int) -> Iterator[int]:
    while (start := text.find(part, start, end)) >= 0:
        yield start
        start += len(part)
