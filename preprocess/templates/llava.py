"""The seven templates of LLaVA 1.5: one rule (`LlavaRenderer.render`) serves all entries of `TEMPLATES`.

They are those of the LLaVA authors: the conversation texts of haotian-liu/LLaVA, llava/conversation.py,
and what `preprocess_plain`, `preprocess_v1` and `preprocess_llama_2` in llava/train/train.py supervise.
"""

from __future__ import annotations

from dataclasses import dataclass

from preprocess.conversation import Conversation, TemplateTraits
from preprocess.segments import Mark, Segment, Special, Text
from preprocess.templates.renderer import Renderer


@dataclass(frozen=True, kw_only=True)
class Template:
    """The format of a conversation after BOS.

    Attributes:
        first_prompt, later_prompt: the unsupervised prompt of a round, with `{system}` and `{question}`. A template
            whose prompt has no `{question}` drops the question and supports one round only.
        answer: the supervised text of a round, with `{answer}`. Unless it starts the text of the row, it must begin
            with a space and the prompt before it must not end with one, so that no token spans the two.
        answer_ends_with_eos: the round ends with a supervised EOS.
        bos_between_rounds: every later round begins with its own BOS.
        system: the text for `{system}`.
        image: the text around the image.
    """

    first_prompt: str
    answer: str
    later_prompt: str = ""
    answer_ends_with_eos: bool = True
    bos_between_rounds: bool = False
    system: str = ""
    image: str = "{image}"

    @property
    def drops_question(self) -> bool:
        """Whether the prompt is only the image."""
        return "{question}" not in self.first_prompt

    @property
    def takes_system(self) -> bool:
        """Whether the template supports a system text."""
        return "{system}" in self.first_prompt


_USER_ASSISTANT_FIRST = "{system} USER: {question} ASSISTANT:"
_USER_ASSISTANT_LATER = "USER: {question} ASSISTANT:"
_INST_FIRST = "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{question} [/INST]"
_INST_LATER = "[INST] {question} [/INST]"

TEMPLATES: dict[str, Template] = {
    "plain": Template(first_prompt="", answer="{answer}\n", answer_ends_with_eos=False),
    "vicuna_v1": Template(
        system=(
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions."
        ),
        first_prompt=_USER_ASSISTANT_FIRST,
        later_prompt=_USER_ASSISTANT_LATER,
        answer=" {answer}",
    ),
    "llava_v1": Template(
        system=(
            "A chat between a curious human and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the human's questions."
        ),
        first_prompt=_USER_ASSISTANT_FIRST,
        later_prompt=_USER_ASSISTANT_LATER,
        answer=" {answer}",
    ),
    "v1_mmtag": Template(
        system=(
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant is able to understand the visual content that the user provides, "
            "and assist the user with a variety of tasks using natural language."
            "The visual content will be provided with the following format: <Image>visual content</Image>."
        ),
        first_prompt=_USER_ASSISTANT_FIRST,
        later_prompt=_USER_ASSISTANT_LATER,
        answer=" {answer}",
        image="<Image>{image}</Image>",
    ),
    "llama_2": Template(
        system=(
            "You are a helpful, respectful and honest assistant. "
            "Always answer as helpfully as possible, while being safe.  "
            "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, "
            "or illegal content. "
            "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
            "If a question does not make any sense, or is not factually coherent, "
            "explain why instead of answering something not correct. "
            "If you don't know the answer to a question, please don't share false information."
        ),
        first_prompt=_INST_FIRST,
        later_prompt=_INST_LATER,
        answer=" {answer} ",
        bos_between_rounds=True,
    ),
    "llava_llama_2": Template(
        system=(
            "You are a helpful language and vision assistant. "
            "You are able to understand the visual content that the user provides, "
            "and assist the user with a variety of tasks using natural language."
        ),
        first_prompt=_INST_FIRST,
        later_prompt=_INST_LATER,
        answer=" {answer} ",
        bos_between_rounds=True,
    ),
    "mistral_instruct": Template(first_prompt=_INST_LATER, later_prompt=_INST_LATER, answer=" {answer} "),
}


class LlavaRenderer(Renderer):
    """A template split once at its placeholders, so that placeholders are never searched for in a record's text."""

    def __init__(
        self,
        template: Template,
        *,
        append_eos: bool = False,
        system: str | None = None,
        end_token: Special | None = None,
    ) -> None:
        """Split the template.

        Args:
            template: the template.
            append_eos: end an answer with EOS instead of the newline (template `plain`).
            system: replaces the template's system text; None keeps it.
            end_token: replaces EOS; None keeps it.
        """
        answer = template.answer
        self.answer_ends_with_eos = template.answer_ends_with_eos
        if append_eos and not template.answer_ends_with_eos:
            answer, self.answer_ends_with_eos = answer.removesuffix("\n"), True
        self.traits = TemplateTraits(
            only_one_round=template.drops_question,
            image_in_front=True,
            takes_system=template.takes_system,
            keeps_empty_answers=False,
        )
        self._end: Segment = end_token or Mark.EOS
        self._between: list[Segment] = [Mark.BOS] if template.bos_between_rounds else []
        self._answer_head, _, self._answer_tail = answer.partition("{answer}")
        first_head, _, self._first_tail = template.first_prompt.partition("{question}")
        self._head_before_system, _, self._head_after_system = first_head.partition("{system}")
        self._first_head = self._with_system(template.system if system is None else system)
        self._later_head, _, self._later_tail = template.later_prompt.partition("{question}")
        self._before_image, _, self._after_image = template.image.partition("{image}")

    def render(self, conversation: Conversation) -> list[Segment]:
        """The segments of the conversation, beginning with BOS."""
        segments: list[Segment] = [Mark.BOS]
        head, token = self._first_head, conversation.image_token
        has_own_system = bool(conversation.system and not conversation.system.isspace())
        if has_own_system:
            head = self._with_system(conversation.system or "")
        question, answer = conversation.rounds[0]
        if conversation.images and not token:
            if before := head + self._before_image:
                segments.append(Text(before, False, constant=not has_own_system))
            segments.append(Mark.IMAGE)
            if not self.traits.only_one_round:
                # The authors put a newline after the image and strip the turn: no newline before an empty rest.
                rest = f"\n{question}" if question else ""
                segments.append(Text(self._after_image + rest + self._first_tail, False))
        else:
            # The text before the question is split off where this does not change tokens: at a single space.
            if head.endswith(" ") and not head.endswith("  ") and head != " ":
                segments.append(Text(head[:-1], False, constant=not has_own_system))
                head = " "
            self._add_question(segments, head, question, self._first_tail, token)
        self._add_answer(segments, answer)
        for question, answer in conversation.rounds[1:]:
            segments += self._between
            self._add_question(segments, self._later_head, question, self._later_tail, token)
            self._add_answer(segments, answer)
        return segments

    def _with_system(self, system: str) -> str:
        return self._head_before_system + system + self._head_after_system

    def _add_question(self, segments: list[Segment], head: str, question: str, tail: str, image_token: str) -> None:
        if image_token and image_token in question:
            first, *others = question.split(image_token)
            for part in others:
                segments += [Text(head + first + self._before_image, False), Mark.IMAGE]
                head, first = self._after_image, part
            question = first
        segments.append(Text(head + question + tail, False))

    def _add_answer(self, segments: list[Segment], answer: str) -> None:
        if answer and not answer.isspace():
            segments.append(Text(self._answer_head + answer + self._answer_tail, True))
        elif not self.answer_ends_with_eos:
            segments.append(Text(self._answer_tail, True))
        if self.answer_ends_with_eos:
            segments.append(self._end)
