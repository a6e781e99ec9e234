"""The canonical record and its fields.

The wording of the questions follows LLaVA-1.5's instruction mix (Liu et al., "Improved Baselines with Visual
Instruction Tuning", https://arxiv.org/abs/2310.03744, section "Response format prompting"): one option per line with a
capital letter, and a last line with the answer format.
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
    """An image contained in the source record: its output path, relative to the image folder, and its bytes."""

    path: str
    data: bytes


class Record(Protocol):
    """The output for a source record: a line of JSON, and the images to write."""

    @property
    def image_files(self) -> tuple[ImageFile, ...]:
        """The images to write, in the order of the record."""

    @property
    def turns_left_out(self) -> int:
        """The number of turns of the source record that were dropped at the user's request."""

    def line(self) -> bytes:
        """The record as one line of JSON, UTF-8, with its line end."""


@dataclass(frozen=True)
class Example:
    """One round about one image. `image` is relative to the parent folder of all images."""

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
    """The human turn of a question followed by its options, without answering instructions.

    Raises:
        Rejected: NO_OPTIONS, when there are more options than letters.
    """
    if len(options) > len(LETTERS):
        raise Rejected(SourceReason.NO_OPTIONS, f"there are {len(options)} options, expected at most {len(LETTERS)}")
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{IMAGE_TOKEN}\n{question}\n{listed}"


def multiple_choice(question: str, options: Sequence[str]) -> str:
    """The human turn of a question that is answered with the letter of an option."""
    return f"{with_options(question, options)}\n{MULTIPLE_CHOICE}"


def text(value: object, name: str, missing: SourceReason) -> str:
    """A text for a turn, without surrounding whitespace.

    Args:
        value: the value in the source; an integer is converted to a string.
        name: name of the field, for the detail of the reject.
        missing: the reject reason if there is no text.

    Raises:
        Rejected: `missing`, or IMAGE_TOKEN_IN_TEXT, since trainers would treat a second `<image>` as another image.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Rejected(missing, f"{name} is {_kind(value)}, expected text")
    stripped = value.strip()
    if not stripped:
        raise Rejected(missing, f"{name} is empty")
    if IMAGE_TOKEN in stripped:
        raise Rejected(SourceReason.IMAGE_TOKEN_IN_TEXT, f"{name} contains {IMAGE_TOKEN}: {shorten(stripped)}")
    return stripped


def identifier(value: object, name: str) -> str:
    """The id of a record in the source, as a string.

    Raises:
        Rejected: NO_ID if it is neither a string nor an integer.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise Rejected(SourceReason.NO_ID, f"{name} is {_kind(value)}, expected text or a whole number")


def first_answer(answers: object) -> str:
    """The first non-empty answer of a list of correct answers (DocVQA, InfographicsVQA).

    Raises:
        Rejected: NO_ANSWER; the test splits are published without answers.
    """
    if not isinstance(answers, list):
        raise Rejected(SourceReason.NO_ANSWER, f"answers is {_kind(answers)}, expected a list of text")
    for answer in answers:
        if isinstance(answer, int) or (isinstance(answer, str) and answer.strip()):
            return text(answer, "answer", SourceReason.NO_ANSWER)
    raise Rejected(SourceReason.NO_ANSWER, f"all {len(answers)} answers are empty")


def an_object(value: object) -> Mapping[str, Any]:
    """`value` if it is a JSON object.

    Raises:
        Rejected: NOT_AN_OBJECT.
    """
    if not isinstance(value, dict):
        raise Rejected(SourceReason.NOT_AN_OBJECT, f"found {_kind(value)}, expected an object")
    return value


def image_path(value: object, name: str) -> str:
    """The path of an image inside its folder, without `.` and doubled slashes.

    Raises:
        Rejected: NO_IMAGE, or IMAGE_OUTSIDE_PREFIX (absolute, `..`, a NUL).
    """
    if not isinstance(value, str) or not value.strip():
        raise Rejected(SourceReason.NO_IMAGE, f"{name} is {_kind(value)}, expected a path")
    if not is_inside(value):
        raise Rejected(
            SourceReason.IMAGE_OUTSIDE_PREFIX,
            f"{name} is {shorten(value, 200)}, expected a path inside the image folder",
        )
    return "/".join(part for part in value.split("/") if part not in ("", "."))


def base_name(value: object, name: str) -> str:
    """The file name of an image path, since the folders differ between downloads.

    Raises:
        Rejected: NO_IMAGE, or IMAGE_OUTSIDE_PREFIX.
    """
    return image_path(value, name).rpartition("/")[2]


def image_prefix(value: str) -> str:
    """The `--image_prefix` of a command, without a trailing slash.

    Raises:
        InputError: the prefix is absolute, empty or leaves the parent folder.
    """
    if not is_inside(value.rstrip("/") or value):
        raise InputError(
            f"--image_prefix is {value!r}, expected a path relative to the parent folder of all images, "
            "such as ArxivCap/images"
        )
    return "/".join(part for part in value.split("/") if part not in ("", "."))


def _kind(value: object) -> str:
    names = {type(None): "missing", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    if isinstance(value, str):
        return shorten(value)
    return names.get(type(value), "an object")
