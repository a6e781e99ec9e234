"""Parse the text of an answer into rounds of question and answer. Text in another layout is rejected, never repaired.

The layout is that of the authors' `NNN_conv.txt` (https://github.com/haotian-liu/LLaVA, playground/data/prompts):

    Question:
    What is the dog looking at?
    ===
    Answer:
    It is looking at the ball on the grass.

with another `===` before each further round. The text may also begin on the line of `Question:` or `Answer:`. A line
that consists of `===` is always a separator; `===`, `Question:` and `Answer:` inside a line are text.
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

# Common beginnings of refusals. Only the beginning of the whole answer is checked, since "I'm sorry" may be valid in a
# conversation.
_REFUSAL = re.compile(
    r"(i['’]?m|i am) (sorry|unable|not able)|i (can['’]?t|cannot|can not)\b|sorry[,.]|i apologi[sz]e|as an ai\b"
    r"|as a (large )?language model|unfortunately, i ",
    re.IGNORECASE,
)
_REASONING_TAG = re.compile(r"</?think(ing)?>")


@dataclass(frozen=True)
class Round:
    """One question and its answer; `question` is empty if the answer does not contain one."""

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
        raise Rejected(SourceReason.REFUSAL, f"the answer begins with {shorten(answer.strip())}")
    if tag := _REASONING_TAG.search(answer):
        detail = f"the answer contains {tag.group()}; configure the server to return the reasoning separately"
        raise Rejected(SourceReason.UNEXPECTED_LAYOUT, detail)
    if not kind.answers_in_rounds:
        return (Round("", _detail(answer)),)
    parts = [_part(block, number) for number, block in enumerate(_blocks(answer))]
    if len(parts) % 2:
        raise Rejected(
            SourceReason.ODD_ROUNDS,
            f"found {len(parts)} parts separated by {SEPARATOR}, expected a question and an answer for each round",
        )
    return tuple(Round(question, answered) for question, answered in zip(parts[::2], parts[1::2], strict=True))


def check_text(text: str, name: str) -> str:
    """`text` if it is valid in a turn.

    Raises:
        Rejected: IMAGE_TOKEN_IN_TEXT, since trainers would treat a second `<image>` as another image.
    """
    if IMAGE_TOKEN in text:
        raise Rejected(SourceReason.IMAGE_TOKEN_IN_TEXT, f"{name} contains {IMAGE_TOKEN}: {shorten(text)}")
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
    """The text of a block without its header; blocks with an even `number` are questions."""
    header, other = HEADERS[number % 2], HEADERS[1 - number % 2]
    if not block:
        raise Rejected(SourceReason.EMPTY_PART, f"part {number + 1} is empty, expected {header!r} and text")
    if block.startswith(other):
        raise Rejected(SourceReason.ODD_ROUNDS, f"part {number + 1} begins with {other!r}, expected {header!r}")
    if not block.startswith(header):
        raise Rejected(
            SourceReason.UNEXPECTED_LAYOUT, f"part {number + 1} begins with {shorten(block)}, expected {header!r}"
        )
    text = block.removeprefix(header).strip()
    if not text:
        raise Rejected(SourceReason.EMPTY_PART, f"part {number + 1} has no text after {header!r}")
    _check_no_header(text)
    return check_text(text, f"part {number + 1}")


def _detail(answer: str) -> str:
    text = answer.strip()
    if any(line.strip() == SEPARATOR for line in text.split("\n")):
        raise Rejected(
            SourceReason.UNEXPECTED_LAYOUT, f"the answer has a line {SEPARATOR}, expected only a description"
        )
    _check_no_header(text)
    return check_text(text, "the answer")


def _check_no_header(text: str) -> None:
    """Reject a text with a line that begins with a header: a separator is missing, or rounds were not requested."""
    for line in text.split("\n"):
        if line.strip().startswith(HEADERS):
            raise Rejected(SourceReason.UNEXPECTED_LAYOUT, f"a line inside a part begins with {shorten(line.strip())}")
