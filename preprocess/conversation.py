"""Validate a record and convert it to rounds of question and answer with their images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from preprocess.config import DatasetConfig, RecordFormat
from preprocess.messages import flatten_messages
from preprocess.record_formats import keys_by_format
from preprocess.record_images import move_single_tokens, read_images, require_places, take_out_image
from preprocess.record_keys import RecordKeys
from preprocess.records import json_type
from preprocess.rejects import Reason, Rejected, shorten

# Roles of turns that call a tool or hold its result, in LLaMA-Factory, Hermes and OpenAI.
TOOL_ROLES = ("tool", "function", "function_call", "function_response", "observation", "tool_call", "tool_response")
EmptyAnswer = Literal["reject", "drop_round", "keep"]


class Conversation(NamedTuple):
    """One validated record.

    Attributes:
        rounds: (question, answer) texts.
        images: paths relative to the image folder, in the order of their tokens; empty for a text-only record.
        image_moved: an image token was moved to the start of its question, or several tokens of one image were merged.
        first_turn_skipped: the record began with an assistant turn, which was dropped as in the LLaVA authors' code.
        rounds_dropped: number of rounds dropped because their answer is empty.
        unused_keys: names of the record's keys that are not used.
        system: the record's own system text, None if it has none.
        image_token: if not empty, each occurrence of this token in a question stands for the next image. If empty, the
            only image precedes the first question, from which the token was removed and whose whitespace was stripped.
    """

    rounds: list[tuple[str, str]]
    images: tuple[str, ...]
    image_moved: bool
    first_turn_skipped: bool
    rounds_dropped: int = 0
    unused_keys: tuple[str, ...] = ()
    system: str | None = None
    image_token: str = ""


@dataclass(frozen=True, kw_only=True)
class TemplateTraits:
    """The conversations that a template supports; for the first three attributes see `read_conversation`.

    Attributes:
        keeps_empty_answers: by default, rounds with an empty answer are kept and trained on; else they are dropped.
    """

    only_one_round: bool = False
    image_in_front: bool
    takes_system: bool
    keeps_empty_answers: bool


class ConversationReader:
    """Reads the records of a dataset in any record format."""

    def __init__(self, dataset: DatasetConfig, template: TemplateTraits) -> None:
        """`dataset` names the keys of records; `template` states which conversations are supported."""
        self._keys = keys_by_format(dataset)
        self._options: dict[str, Any] = {
            "only_one_round": template.only_one_round,
            "image_in_front": template.image_in_front,
            "takes_system": template.takes_system,
            "max_images": dataset.max_images,
            "repair_text": dataset.use_ftfy,
            "empty_answer": dataset.empty_answer or ("keep" if template.keeps_empty_answers else "drop_round"),
        }

    def read(self, record: dict[str, Any], record_format: RecordFormat) -> Conversation:
        """Validate a record.

        Raises:
            Rejected: with the first fault that was found.
        """
        keys = self._keys[record_format]
        if record_format == "messages":
            record = flatten_messages(record, keys)
        return read_conversation(record, keys, **self._options)


def read_conversation(
    record: dict[str, Any],
    keys: RecordKeys,
    *,
    only_one_round: bool = False,
    image_in_front: bool = True,
    takes_system: bool = False,
    max_images: int = 1,
    repair_text: bool = False,
    empty_answer: EmptyAnswer = "drop_round",
) -> Conversation:
    """Validate a record.

    Args:
        record: the parsed JSON object.
        keys: the names of its parts.
        only_one_round: accept exactly one human turn with an image and one answer (template `plain`).
        image_in_front: place images as the templates of LLaVA 1.5 do: a single image goes before the first question,
            wherever its tokens are in it; of several images, one that is alone in its question goes before that
            question. If false, each image stays at its token.
        takes_system: the template has a place for the record's own system text.
        max_images: a record with more images is rejected.
        repair_text: pass every text through `ftfy.fix_text` (NFC) first.
        empty_answer: how to handle a round whose answer is null, empty or whitespace: reject the record; drop the round
            (the record is rejected if no other is left) and move its images to the next round; or keep it, null as "".

    Raises:
        Rejected: with the first fault that was found.
    """
    unused = keys.unused(record)
    turns = record.get(keys.turns)
    if not turns:
        found = "is empty" if keys.turns in record else f"is not among the record's keys ({_listed(record)})"
        raise Rejected(Reason.NO_TURNS, f"{keys.turns!r} {found}, expected a list of turns")
    if type(turns) is not list:
        raise Rejected(Reason.NO_TURNS, f"{keys.turns!r} is {json_type(turns)}, expected a list of turns")
    images = read_images(record, keys)
    if len(images) > (1 if only_one_round else max_images):
        expected = "one for plain" if only_one_round else f"at most {max_images} (dataset.max_images)"
        raise Rejected(Reason.TOO_MANY_IMAGES, f"there are {len(images)} images, expected {expected}")

    before, skipped = 0, False
    system = _system_of(record, keys) if keys.system else None
    first = turns[0].get(keys.role) if type(turns[0]) is dict else None
    if first not in keys.human_roles:
        if first in keys.system_roles:
            own = _system_text(turns[0].get(keys.content), "the system turn")
            if own and own.strip() and system:
                raise Rejected(
                    Reason.TWO_SYSTEM_TEXTS,
                    "the record has both a system turn and a system text outside the turns; keep one of them",
                )
            system, before = own if system is None else system, 1
            first = turns[1].get(keys.role) if len(turns) > 1 and type(turns[1]) is dict else None
        if first in keys.assistant_roles and not only_one_round:
            before, skipped = before + 1, True
    if before == len(turns):
        raise Rejected(Reason.NO_TURNS, f"the only turn is from the {'assistant' if skipped else 'system'}")
    if system and not system.isspace() and not takes_system:
        raise Rejected(
            Reason.NO_PLACE_FOR_SYSTEM,
            f"the record has the system text {shorten(system)}, but the template does not support system texts",
        )

    texts = _read_turns(turns, before, keys)
    if sum(map(len, turns)) > 2 * len(turns):
        unused += keys.unused_in_turns(turns)
    if len(texts) % 2:
        raise Rejected(Reason.ODD_TURNS, f"{len(texts)} turns, expected pairs of human and assistant")
    if only_one_round and len(texts) != 2:
        raise Rejected(Reason.NOT_ONE_ROUND, f"{len(texts)} turns, expected one question and one answer for plain")
    if repair_text:
        import ftfy  # imported on use, since its tables are slow to load

        texts = [ftfy.fix_text(text, normalization="NFC") for text in texts]
        system = system and ftfy.fix_text(system, normalization="NFC")

    token = keys.image_token
    if system is not None and token in system:
        raise Rejected(
            Reason.TOKEN_OUTSIDE_HUMAN_TURN, f"the system text contains {token}, which is allowed in human turns only"
        )
    if image_in_front and len(images) <= 1:
        token = ""
        moved = take_out_image(texts, bool(images), keys.image_token)
        if only_one_round and not images:
            raise Rejected(Reason.TEXT_ONLY_IN_PLAIN, "the record has no image, but the template plain requires one")
    else:
        require_places(texts, len(images), token)
        moved = image_in_front and move_single_tokens(texts, token)
        token = token if images else ""
    rounds = _pair_up(texts, bool(images), token, empty_answer)
    return Conversation(rounds, images, moved, skipped, len(texts) // 2 - len(rounds), unused, system, token)


def _system_of(record: dict[str, Any], keys: RecordKeys) -> str | None:
    """The system text of a record outside its turns, or None."""
    found = [text for name in keys.system if (text := _system_text(record.get(name), repr(name))) and text.strip()]
    if len(found) > 1:
        raise Rejected(
            Reason.TWO_SYSTEM_TEXTS,
            f"{' and '.join(map(repr, keys.system))} both hold a string, expected only one of them",
        )
    return found[0] if found else None


def _system_text(value: object, where: str) -> str | None:
    """A system text, which may be empty; None if it is null."""
    if value is None or type(value) is str:
        return value
    raise Rejected(Reason.BAD_TURN, f"{where} has {json_type(value)}, expected a string")


def _read_turns(turns: list[Any], before: int, keys: RecordKeys) -> list[str]:
    """The texts of the turns after the first `before`, whose roles must alternate: human, assistant, human, …"""
    texts: list[str] = []
    role_key, content_key = keys.role, keys.content
    expected, other = keys.human_roles, keys.assistant_roles
    for turn in turns[before:] if before else turns:
        if type(turn) is not dict:
            raise Rejected(Reason.BAD_TURN, f"turn {_number(texts, before)} is {json_type(turn)}, expected an object")
        role, text = turn.get(role_key), turn.get(content_key)
        if role not in expected:
            raise _wrong_role(turn, expected, keys, _number(texts, before))
        if text is None and expected is keys.assistant_roles and content_key in turn:
            text = ""  # null is an empty answer
        if type(text) is not str:
            raise Rejected(
                Reason.BAD_TURN,
                f"{content_key!r} of turn {_number(texts, before)} is "
                f"{json_type(text) if content_key in turn else 'missing'}, expected a string",
            )
        texts.append(text)
        expected, other = other, expected
    return texts


def _number(texts: list[str], before: int) -> int:
    """The number, from 1, of the next turn to read."""
    return before + len(texts) + 1


def _wrong_role(turn: dict[str, Any], expected: tuple[str, ...], keys: RecordKeys, number: int) -> Rejected:
    role = turn.get(keys.role)
    known = ", ".join(map(repr, (*keys.human_roles, *keys.assistant_roles, *keys.system_roles)))
    if role in keys.system_roles:
        return Rejected(
            Reason.SYSTEM_NOT_FIRST, f"turn {number} has the role {role!r}, which only the first turn may have"
        )
    if role in keys.human_roles or role in keys.assistant_roles:
        return Rejected(
            Reason.ROLE_ORDER, f"turn {number} has the role {role!r}, expected {' or '.join(map(repr, expected))}"
        )
    if role in TOOL_ROLES:
        return Rejected(Reason.TOOL_TURN, f"turn {number} has the role {role!r}; tool calls are not supported")
    if keys.role not in turn:
        return Rejected(
            Reason.UNKNOWN_ROLE,
            f"turn {number} has no {keys.role!r} (dataset.role_key) among its keys ({_listed(turn)}), "
            f"expected one with {known}",
        )
    shown = shorten(role) if isinstance(role, str) else repr(role)[:80]
    return Rejected(
        Reason.UNKNOWN_ROLE, f"turn {number} has {keys.role!r} {shown}, expected one of {known}, or of dataset.roles"
    )


def _listed(names: Iterable[str]) -> str:
    """The first few key names, for a message."""
    shown = [shorten(name, 40) for name in itertools.islice(names, 6)]
    return ", ".join(shown if len(shown) < 6 else [*shown[:5], "…"]) or "none"


def _pair_up(texts: list[str], has_image: bool, token: str, empty_answer: EmptyAnswer) -> list[tuple[str, str]]:
    """The rounds that are trained on; see `read_conversation`.

    If images stay at their tokens (`token`), those of a dropped round are put before the next question, one a line.
    """
    rounds: list[tuple[str, str]] = []
    waiting = 0
    for number, (question, answer) in enumerate(zip(texts[0::2], texts[1::2], strict=True)):
        if not answer or answer.isspace():
            if empty_answer == "reject":
                raise Rejected(Reason.EMPTY_ANSWER, f"the answer of round {number + 1} is empty")
            if empty_answer == "drop_round":
                waiting += question.count(token) if token else 0
                continue
        if not question and (rounds or not has_image or token):
            raise Rejected(Reason.EMPTY_QUESTION, f"the question of round {number + 1} is empty")
        if waiting:
            question, waiting = f"{token}\n" * waiting + question, 0
        rounds.append((question, answer))
    if not rounds:
        others = ", and no other round has one" if len(texts) > 2 else ""
        raise Rejected(Reason.EMPTY_ANSWER, f"the answer of round 1 is empty{others}")
    if waiting:
        raise Rejected(
            Reason.EMPTY_ANSWER,
            f"the answer of the last round is empty, and there is no later round for its {waiting} image(s)",
        )
    return rounds
