"""What the model is told: a system text and worked examples for each kind, from YAML files that users can replace."""

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
    """A box of a worked example, as fractions of width and height."""

    category: Text
    corners: tuple[float, float, float, float]


class PromptExample(_Section):
    """A worked example: an image as the model will be shown it, and the answer that is wanted."""

    captions: Annotated[tuple[Text, ...], Field(min_length=1)]
    boxes: tuple[PromptBox, ...] = ()
    answer: Text

    def context(self) -> str:
        """The text of the user message, laid out as that of any request."""
        return context(self.captions, [Box(box.category, box.corners) for box in self.boxes])


class Prompt(_Section):
    """What one YAML file holds. `questions` are for the kind whose answers bring no questions of their own."""

    system: Text
    examples: tuple[PromptExample, ...] = ()
    questions: tuple[Text, ...] = ()

    def messages(self, described: str) -> list[Message]:
        """The messages of a request; the last one is the context and nothing else."""
        messages = [{"role": "system", "content": self.system.strip()}]
        for example in self.examples:
            messages.append({"role": "user", "content": example.context()})
            messages.append({"role": "assistant", "content": example.answer.strip()})
        return [*messages, {"role": "user", "content": described}]

    def digest(self) -> str:
        """What tells it from another prompt, wherever its file is."""
        return blake2b(self.model_dump_json().encode(), digest_size=8).hexdigest()


def prompt_files(folder: Path | None) -> dict[Kind, Path]:
    """The file of each kind: in the user's folder, or those that ship with the package.

    Raises:
        InputError: the folder lacks one.
    """
    if folder is None:
        folder = next(path / "instructions" for path in SHIPPED_DIRS if (path / "instructions").is_dir())
    files = {kind: folder / f"{kind.value}.yaml" for kind in Kind}
    for path in files.values():
        if not path.is_file():
            raise InputError(f"--prompts {folder}: there is no {path.name}; copy configs/instructions and change it")
    return files


def load_prompt(path: Path, kind: Kind) -> Prompt:
    """Read one file and see that its examples answer as the parser wants it.

    Raises:
        InputError: not YAML, a key or value that is wrong, an example whose answer does not parse.
    """
    try:
        values: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        prompt = Prompt.model_validate(values)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())}); correct it") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path}: {where}: {first['msg']}; see the file that ships in configs/instructions") from None
    if kind.answers_in_rounds == bool(prompt.questions):
        raise InputError(f"{path}: `questions` are for {Kind.DETAIL.value}.yaml, and needed there; correct it")
    for number, example in enumerate(prompt.examples):
        if example.boxes and not kind.sees_boxes:
            raise InputError(f"{path}: examples.{number}.boxes: requests of this kind have no boxes; take them out")
        try:
            rounds_of(example.answer, kind)
        except Rejected as rejected:
            raise InputError(f"{path}: examples.{number}.answer: {rejected.detail}; correct it") from None
    for number, question in enumerate(prompt.questions):
        try:
            check_text(question, "a question")
        except Rejected as rejected:
            raise InputError(f"{path}: questions.{number}: {rejected.detail}; correct it") from None
    return prompt
