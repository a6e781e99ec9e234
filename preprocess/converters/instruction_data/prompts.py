"""Prompts: a system text and few-shot examples for each kind, from YAML files that users can replace."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from preprocess.converters.core.errors import InputError
from preprocess.converters.instruction_data.contexts import Box, context
from preprocess.converters.instruction_data.kinds import Kind
from preprocess.converters.instruction_data.parse import check_text, rounds_of
from preprocess.rejects import Rejected
from preprocess.settings import SHIPPED_DIRS

Text = Annotated[str, Field(min_length=1)]
Message = dict[str, str]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptBox(_Section):
    """A box of an example; `corners` are (left, top, right, bottom) as fractions of width and height."""

    category: Text
    corners: tuple[float, float, float, float]


class PromptExample(_Section):
    """A few-shot example: the captions and boxes of an image, and the desired answer."""

    captions: Annotated[tuple[Text, ...], Field(min_length=1)]
    boxes: tuple[PromptBox, ...] = ()
    answer: Text

    def context(self) -> str:
        """The text of the user message, in the layout of all requests."""
        return context(self.captions, [Box(box.category, box.corners) for box in self.boxes])


class Prompt(_Section):
    """The contents of one YAML file. `questions` are for the kind whose answers do not contain questions."""

    system: Text
    examples: tuple[PromptExample, ...] = ()
    questions: tuple[Text, ...] = ()

    def messages(self, image_context: str) -> list[Message]:
        """The messages of a request; the last one is the text that represents the image."""
        messages = [{"role": "system", "content": self.system.strip()}]
        for example in self.examples:
            messages.append({"role": "user", "content": example.context()})
            messages.append({"role": "assistant", "content": example.answer.strip()})
        return [*messages, {"role": "user", "content": image_context}]

    def digest(self) -> str:
        """A hash of the contents."""
        return blake2b(self.model_dump_json().encode(), digest_size=8).hexdigest()


def prompt_files(folder: Path | None) -> dict[Kind, Path]:
    """The prompt file of each kind, from the user's folder or from the package.

    Raises:
        InputError: the folder lacks one of the files.
    """
    if folder is None:
        folder = next(path / "instructions" for path in SHIPPED_DIRS if (path / "instructions").is_dir())
    files = {kind: folder / f"{kind.value}.yaml" for kind in Kind}
    for path in files.values():
        if not path.is_file():
            raise InputError(
                f"--prompts is {folder}, which has no {path.name}; give a folder with all files of configs/instructions"
            )
    return files


def load_prompt(path: Path, kind: Kind) -> Prompt:
    """Read one file and check that the answers of its examples can be parsed.

    Raises:
        InputError: the file is not YAML, a key or value is invalid, or the answer of an example cannot be parsed.
    """
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        prompt = Prompt.model_validate(values)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())}); correct the file") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"{path}: {where}: {message}; compare it with the file in configs/instructions") from None
    if kind.answers_in_rounds and prompt.questions:
        raise InputError(f"{path}: `questions` is only allowed in {Kind.DETAIL.value}.yaml; remove it")
    if not kind.answers_in_rounds and not prompt.questions:
        raise InputError(f"{path}: `questions` is missing or empty, expected a list of questions; add it")
    for number, example in enumerate(prompt.examples):
        if example.boxes and not kind.uses_boxes:
            raise InputError(f"{path}: examples.{number}.boxes: requests of this kind have no boxes; remove them")
        try:
            rounds_of(example.answer, kind)
        except Rejected as rejected:
            raise InputError(f"{path}: examples.{number}.answer: {rejected.detail}; correct the answer") from None
    for number, question in enumerate(prompt.questions):
        try:
            check_text(question, "a question")
        except Rejected as rejected:
            raise InputError(f"{path}: questions.{number}: {rejected.detail}; remove it") from None
    return prompt
