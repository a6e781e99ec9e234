"""`system_prompt_style` → segments: text with a supervised flag, the image, special tokens.

A template is data; one rule (`render`) serves all of them, and a new one is one more entry in `TEMPLATES`.
The seven are those of the LLaVA authors: the conversation texts of haotian-liu/LLaVA, llava/conversation.py,
and what `preprocess_plain`, `preprocess_v1` and `preprocess_llama_2` in llava/train/train.py supervise.
"""

from __future__ import annotations

from dataclasses import dataclass

from preprocess.config import ConfigError, DatasetConfig
from preprocess.conversation import Conversation
from preprocess.segments import Mark, Segment, Text
from preprocess.settings import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Template:
    """How a conversation is written down, after a BOS.

    Attributes:
        first_prompt, later_prompt: the context of a round, with `{system}` and `{question}`. A template whose
            prompt has no `{question}` drops the question and has one round.
        answer: the supervised text of a round, with `{answer}`. Unless it starts the text of the row, it begins
            with a blank and the prompt before it does not end with one: so no token spans the two.
        answer_ends_with_eos: the round ends with a supervised EOS.
        bos_between_rounds: every later round begins with a BOS of its own.
        system: the text for `{system}`.
        image: what is written around the image.
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
        """The prompt is the image alone."""
        return "{question}" not in self.first_prompt


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


def renderer_for(dataset: DatasetConfig) -> Renderer:
    """The renderer that a config asks for.

    Raises:
        ConfigError: no template of that name, or `append_eos` for one whose answers end with EOS anyway.
    """
    style = dataset.system_prompt_style
    if style not in TEMPLATES:
        raise ConfigError(
            f"dataset.system_prompt_style is {style!r}{did_you_mean(style, TEMPLATES)}; "
            f"the templates are {', '.join(TEMPLATES)}"
        )
    template = TEMPLATES[style]
    if dataset.append_eos and template.answer_ends_with_eos:
        raise ConfigError(
            f"dataset.append_eos is true, but the answers of {style!r} end with EOS already; "
            "it is for system_prompt_style plain: remove it"
        )
    return Renderer(template, append_eos=dataset.append_eos)


class Renderer:
    """A template, cut once at its placeholders, so that no text from a record is ever searched for one."""

    def __init__(self, template: Template, *, append_eos: bool = False) -> None:
        """`append_eos` ends an answer with EOS instead of the newline (template `plain`)."""
        answer = template.answer
        self.answer_ends_with_eos = template.answer_ends_with_eos
        if append_eos and not template.answer_ends_with_eos:
            answer, self.answer_ends_with_eos = answer.removesuffix("\n"), True
        self.drops_question = template.drops_question
        self._between = [Mark.BOS] if template.bos_between_rounds else []
        self._answer_head, _, self._answer_tail = answer.partition("{answer}")
        head, _, self._first_tail = template.first_prompt.partition("{question}")
        self._first_head = head.replace("{system}", template.system)
        self._later_head, _, self._later_tail = template.later_prompt.partition("{question}")
        image_head, _, self._after_image = template.image.partition("{image}")
        self._before_image = self._first_head + image_head
        # What comes before the question is cut off where that is exact: at a single blank.
        self._opening: list[Segment] = [Mark.BOS]
        self._question_head = self._first_head
        if self._first_head.endswith(" ") and not self._first_head.endswith("  ") and self._first_head != " ":
            self._opening.append(Text(self._first_head[:-1], False, constant=True))
            self._question_head = " "

    def before_image(self) -> list[Segment]:
        """What stands before the image slots, in every row that has an image."""
        return [Mark.BOS, Text(self._before_image, False, constant=True)] if self._before_image else [Mark.BOS]

    def render(self, conversation: Conversation) -> list[Segment]:
        """The whole conversation, beginning with BOS."""
        segments: list[Segment]
        question, answer = conversation.rounds[0]
        if not conversation.images:
            segments = [*self._opening, Text(self._question_head + question + self._first_tail, False)]
        else:
            segments = [*self.before_image(), Mark.IMAGE]
            if not self.drops_question:
                # The authors put a newline after the image and strip the turn: no newline before an empty rest.
                rest = f"\n{question}" if question else ""
                segments.append(Text(self._after_image + rest + self._first_tail, False))
        self._add_answer(segments, answer)
        for question, answer in conversation.rounds[1:]:
            segments += self._between
            segments.append(Text(self._later_head + question + self._later_tail, False))
            self._add_answer(segments, answer)
        return segments

    def _add_answer(self, segments: list[Segment], answer: str) -> None:
        if answer:
            segments.append(Text(self._answer_head + answer + self._answer_tail, True))
        elif not self.answer_ends_with_eos:
            segments.append(Text(self._answer_tail, True))
        if self.answer_ends_with_eos:
            segments.append(Mark.EOS)
