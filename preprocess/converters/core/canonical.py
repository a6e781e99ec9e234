"""The canonical record, and the fields it is made of.

The wording of the questions follows LLaVA-1.5's instruction mix (Liu et al., "Improved Baselines with Visual
Instruction Tuning", https://arxiv.org/abs/2310.03744, section "Response format prompting"): options one a line with a
capital letter, and a last line that says how to answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import orjson

from preprocess.converters.core.errors import InputError
from preprocess.converters.core.reasons import SourceReason
from preprocess.image_files import is_inside
from preprocess.rejects import Rejected, shorten

IMAGE_TOKEN = "<image>"
SHORT_ANSWER = "Answer the question using a single word or phrase."
MULTIPLE_CHOICE = "Answer with the option's letter from the given choices directly."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class ImageFile:
    """An image that comes inside the source record: where to write it, relative to the image folder, and its bytes."""

    path: str
    data: bytes


class Record(Protocol):
    """What a source record becomes: a line of JSON, and the images to write for it."""

    @property
    def image_files(self) -> tuple[ImageFile, ...]:
        """The images to write, in the order of the record."""

    @property
    def turns_left_out(self) -> int:
        """How many turns of the source record the line does not have, because the user asked for that."""

    def line(self) -> bytes:
        """The record as one line of JSON, UTF-8, with its line end."""


@dataclass(frozen=True)
class Example:
    """One round about one image. `image` is relative to the one parent folder of all images."""

    id: str
    image: str
    human: str
    gpt: str
    image_file: ImageFile | None = None
    turns_left_out: ClassVar[int] = 0

    @property
    def image_files(self) -> tuple[ImageFile, ...]:
        """The images to write."""
        return () if self.image_file is None else (self.image_file,)

    def line(self) -> bytes:
        """The record as one line of JSON, UTF-8, with its line end."""
        turns = [{"from": "human", "value": self.human}, {"from": "gpt", "value": self.gpt}]
        return orjson.dumps(
            {"id": self.id, "image": self.image, "conversations": turns}, option=orjson.OPT_APPEND_NEWLINE
        )


def short_answer(question: str) -> str:
    """The human turn of a question whose answer is a word or a phrase."""
    return f"{IMAGE_TOKEN}\n{question}\n{SHORT_ANSWER}"


def with_options(question: str, options: Sequence[str]) -> str:
    """The human turn of a question with its options below, without a word on how to answer.

    Raises:
        Rejected: NO_OPTIONS, when there are more options than letters.
    """
    if len(options) > len(LETTERS):
        raise Rejected(SourceReason.NO_OPTIONS, f"{len(options)} options are more than there are letters")
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{IMAGE_TOKEN}\n{question}\n{listed}"


def multiple_choice(question: str, options: Sequence[str]) -> str:
    """The human turn of a question that is answered with the letter of an option."""
    return f"{with_options(question, options)}\n{MULTIPLE_CHOICE}"


def text(value: object, name: str, missing: SourceReason) -> str:
    """A text for a turn, without blanks around it.

    Args:
        value: as the source gives it; a whole number counts as its digits.
        name: of the field, for the detail of the reject.
        missing: the reason to reject for when there is no text.

    Raises:
        Rejected: `missing`, or IMAGE_TOKEN_IN_TEXT: a second `<image>` would be a second image to every trainer.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Rejected(missing, f"{name} is {_kind(value)}, expected text")
    stripped = value.strip()
    if not stripped:
        raise Rejected(missing, f"{name} is empty")
    if IMAGE_TOKEN in stripped:
        raise Rejected(SourceReason.IMAGE_TOKEN_IN_TEXT, f"{name} holds {IMAGE_TOKEN}: {shorten(stripped)}")
    return stripped


def identifier(value: object, name: str) -> str:
    """The owner's id of a record, as text.

    Raises:
        Rejected: NO_ID when it is neither text nor a whole number.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise Rejected(SourceReason.NO_ID, f"{name} is {_kind(value)}, expected text or a whole number")


def first_answer(answers: object) -> str:
    """The first answer with text in it, of a list of answers that all count as right (DocVQA, InfographicsVQA).

    Raises:
        Rejected: NO_ANSWER; the test splits are published without answers.
    """
    if not isinstance(answers, list):
        raise Rejected(SourceReason.NO_ANSWER, f"answers is {_kind(answers)}, expected a list of text")
    for answer in answers:
        if isinstance(answer, int) or (isinstance(answer, str) and answer.strip()):
            return text(answer, "answer", SourceReason.NO_ANSWER)
    raise Rejected(SourceReason.NO_ANSWER, f"none of {len(answers)} answers has text")


def an_object(value: object) -> Mapping[str, Any]:
    """`value` if it is a JSON object.

    Raises:
        Rejected: NOT_AN_OBJECT.
    """
    if not isinstance(value, dict):
        raise Rejected(SourceReason.NOT_AN_OBJECT, f"found {_kind(value)}, expected an object")
    return value


def image_path(value: object, name: str) -> str:
    """A path of an image inside its folder, as the source gives it, with `.` and doubled slashes taken out.

    Raises:
        Rejected: NO_IMAGE, or IMAGE_OUTSIDE_PREFIX (absolute, `..`, a NUL).
    """
    if not isinstance(value, str) or not value.strip():
        raise Rejected(SourceReason.NO_IMAGE, f"{name} is {_kind(value)}, expected a path")
    if not is_inside(value):
        raise Rejected(
            SourceReason.IMAGE_OUTSIDE_PREFIX, f"{name} is {shorten(value, 200)}, no path inside the image folder"
        )
    return "/".join(part for part in value.split("/") if part not in ("", "."))


def base_name(value: object, name: str) -> str:
    """The last part of the path of an image: the folders differ from download to download.

    Raises:
        Rejected: NO_IMAGE, or IMAGE_OUTSIDE_PREFIX.
    """
    return image_path(value, name).rpartition("/")[2]


def image_prefix(value: str) -> str:
    """The `--image_prefix` of a command, without a slash at its end.

    Raises:
        InputError: absolute, empty or leaving the parent folder.
    """
    if not is_inside(value.rstrip("/") or value):
        raise InputError(
            f"--image_prefix is {value!r}, expected a path relative to the parent folder of all images, "
            "such as ArxivCap/images"
        )
    return "/".join(part for part in value.split("/") if part not in ("", "."))


def _kind(value: object) -> str:
    names = {type(None): "missing", bool: "a truth value", int: "a number", float: "a number", list: "a list"}
    if isinstance(value, str):
        return shorten(value)
    return names.get(type(value), "an object")
