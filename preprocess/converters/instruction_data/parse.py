"""The text of an answer → rounds of question and answer. What does not fit exactly is rejected, never repaired.

Rounds are laid out as in the authors' `NNN_conv.txt` (https://github.com/haotian-liu/LLaVA, playground/data/prompts):

    Question:
    What is the dog looking at?
    ===
    Answer:
    It is looking at the ball on the grass.

with `===` before a further round too. The text may also begin on the line of `Question:` and `Answer:`. A line that is
`===` always separates; `===`, `Question:` and `Answer:` inside a line are text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from preprocess.converters.core.canonical import IMAGE_TOKEN
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.instruction_data.kinds import Kind
from preprocess.rejects import Rejected, shorten

SEPARATOR = "==="
HEADERS = ("Question:", "Answer:")

# How a refusal begins, in the models we know. Only the first words of a whole answer are looked at: inside a
# conversation, "I'm sorry" may be what is wanted.
_REFUSAL = re.compile(
    r"(i['’]?m|i am) (sorry|unable|not able)|i (can['’]?t|cannot|can not)\b|sorry[,.]|i apologi[sz]e|as an ai\b"
    r"|as a (large )?language model|unfortunately, i ",
    re.IGNORECASE,
)
_REASONING_TAG = re.compile(r"</?think(ing)?>")


@dataclass(frozen=True)
class Round:
    """One question and its answer; `question` is empty where the answer brings none."""

    question: str
    answer: str


def rounds_of(answer: str, kind: Kind) -> tuple[Round, ...]:
    """The rounds of an answer, at least one.

    Raises:
        Rejected: ODD_ROUNDS, EMPTY_PART, UNEXPECTED_LAYOUT, REFUSAL or IMAGE_TOKEN_IN_TEXT.
    """
    if not answer.strip():
        raise Rejected(SourceReason.EMPTY_PART, "the answer is empty")
    if _REFUSAL.match(answer.strip()):
        raise Rejected(SourceReason.REFUSAL, f"the answer begins {shorten(answer.strip())}")
    if tag := _REASONING_TAG.search(answer):
        detail = f"the answer holds {tag.group()}: start the server so that it returns reasoning apart from the answer"
        raise Rejected(SourceReason.UNEXPECTED_LAYOUT, detail)
    if not kind.answers_in_rounds:
        return (Round("", _detail(answer)),)
    parts = [_part(block, number) for number, block in enumerate(_blocks(answer))]
    if len(parts) % 2:
        raise Rejected(
            SourceReason.ODD_ROUNDS, f"{len(parts)} parts between the {SEPARATOR}, expected a pair for each round"
        )
    return tuple(Round(question, answered) for question, answered in zip(parts[::2], parts[1::2], strict=True))


def check_text(text: str, name: str) -> str:
    """`text` if it may stand in a turn.

    Raises:
        Rejected: IMAGE_TOKEN_IN_TEXT: a second `<image>` would be a second image to every trainer.
    """
    if IMAGE_TOKEN in text:
        raise Rejected(SourceReason.IMAGE_TOKEN_IN_TEXT, f"{name} holds {IMAGE_TOKEN}: {shorten(text)}")
    return text


def _blocks(answer: str) -> list[str]:
    blocks: list[list[str]] = [[]]
    for line in answer.split("\n"):
        if line.strip() == SEPARATOR:
            blocks.append([])
        else:
            blocks[-1].append(line)
    return ["\n".join(lines).strip() for lines in blocks]


def _part(block: str, number: int) -> str:
    """The text of a block, which is a question if `number` is even."""
    header, other = HEADERS[number % 2], HEADERS[1 - number % 2]
    if not block:
        raise Rejected(SourceReason.EMPTY_PART, f"there is nothing between two {SEPARATOR}, or before or after one")
    if block.startswith(other):
        raise Rejected(SourceReason.ODD_ROUNDS, f"part {number + 1} begins with {other!r}, expected {header!r}")
    if not block.startswith(header):
        raise Rejected(
            SourceReason.UNEXPECTED_LAYOUT, f"part {number + 1} begins {shorten(block)}, expected {header!r}"
        )
    text = block.removeprefix(header).strip()
    if not text:
        raise Rejected(SourceReason.EMPTY_PART, f"there is nothing after {header!r} of part {number + 1}")
    _no_header(text)
    return check_text(text, f"part {number + 1}")


def _detail(answer: str) -> str:
    text = answer.strip()
    if any(line.strip() == SEPARATOR for line in text.split("\n")):
        raise Rejected(
            SourceReason.UNEXPECTED_LAYOUT, f"the answer has a line {SEPARATOR}, expected a description alone"
        )
    _no_header(text)
    return check_text(text, "the answer")


def _no_header(text: str) -> None:
    """Where a line begins with a header, a separator was forgotten, or rounds were given that nobody asked for."""
    for line in text.split("\n"):
        if line.strip().startswith(HEADERS):
            raise Rejected(SourceReason.UNEXPECTED_LAYOUT, f"a line inside a part begins {shorten(line.strip())}")
