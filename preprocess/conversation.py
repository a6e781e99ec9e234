"""A record → validated rounds of question and answer and their images, or a reject."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from preprocess.record_images import move_single_tokens, read_images, require_places, take_out_image
from preprocess.record_keys import RecordKeys
from preprocess.records import json_type
from preprocess.rejects import Reason, Rejected, shorten

HUMAN, ASSISTANT, SYSTEM = "human", "gpt", "system"
EmptyAnswer = Literal["reject", "drop_round", "keep"]


class Conversation(NamedTuple):
    """One validated record.

    Attributes:
        rounds: (question, answer) texts.
        images: paths relative to the image folder, in the order of their places; empty for a text-only record.
        image_moved: an image token was moved to the start of its question, or several of one image became one.
        first_turn_skipped: the record began with an assistant turn, which was left out as the authors do.
        rounds_dropped: rounds that were left out because their answer is empty.
        unused_keys: names of the record's keys that no part of a row is made of.
        system: the record's own system text, None if it has none.
        image_token: where images stand in place: each occurrence in a question is the next image. Empty where the
            one image stands before the first question, which then no longer holds the token and is stripped.
    """

    rounds: list[tuple[str, str]]
    images: tuple[str, ...]
    image_moved: bool
    first_turn_skipped: bool
    rounds_dropped: int = 0
    unused_keys: tuple[str, ...] = ()
    system: str | None = None
    image_token: str = ""


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
        image_in_front: as the templates of LLaVA 1.5 have it: one image stands before the first question, wherever
            its tokens are in it; of several, one that is alone in its question stands before that. Else each image
            stands where its token does.
        takes_system: the template has a place for the record's own system text.
        max_images: more are rejected.
        repair_text: pass every text through `ftfy.fix_text` (NFC) first.
        empty_answer: what becomes of a round whose answer is null, empty or blank: the record is rejected; the round
            is left out, unless no other is left, and its images belong to the next; or the answer is "".

    Raises:
        Rejected: with the reason of the first thing that is wrong.
    """
    unused = keys.unused(record)
    turns = record.get(keys.turns)
    if not turns:
        found = "is empty" if keys.turns in record else "is absent"
        raise Rejected(Reason.NO_TURNS, f"{keys.turns!r} {found}, expected a list of turns")
    if type(turns) is not list:
        raise Rejected(Reason.NO_TURNS, f"{keys.turns!r} is {json_type(turns)}, expected a list of turns")
    images = read_images(record, keys)
    if len(images) > (1 if only_one_round else max_images):
        expected = "one for plain" if only_one_round else f"at most {max_images} (dataset.max_images)"
        raise Rejected(Reason.TOO_MANY_IMAGES, f"there are {len(images)} images, expected {expected}")

    before, system, skipped = 0, None, False
    first = turns[0].get(keys.role) if type(turns[0]) is dict else None
    if first == SYSTEM:
        system, before = _read_system(turns[0], keys, takes_system), 1
        first = turns[1].get(keys.role) if len(turns) > 1 and type(turns[1]) is dict else None
    if first == ASSISTANT and not only_one_round:
        before, skipped = before + 1, True
    if before == len(turns):
        raise Rejected(Reason.NO_TURNS, f"the only turn is the {'assistant' if skipped else 'system'}'s")

    texts = _read_turns(turns, before, keys)
    if len(texts) % 2:
        raise Rejected(Reason.ODD_TURNS, f"{len(texts)} turns, expected pairs of human and assistant")
    if only_one_round and len(texts) != 2:
        raise Rejected(Reason.NOT_ONE_ROUND, f"{len(texts)} turns, expected one question and one answer for plain")
    if repair_text:
        import ftfy  # only here: most runs never need its tables

        texts = [ftfy.fix_text(text, normalization="NFC") for text in texts]
        system = system and ftfy.fix_text(system, normalization="NFC")

    token = keys.image_token
    if system is not None and token in system:
        raise Rejected(
            Reason.TOKEN_OUTSIDE_HUMAN_TURN, f"the system text holds {token}, expected it in the human's turns only"
        )
    if image_in_front and len(images) <= 1:
        token = ""
        moved = take_out_image(texts, bool(images), keys.image_token)
        if only_one_round and not images:
            raise Rejected(Reason.TEXT_ONLY_IN_PLAIN, "there is no image, which the template plain needs")
    else:
        require_places(texts, len(images), token)
        moved = image_in_front and move_single_tokens(texts, token)
        token = token if images else ""
    rounds = _pair_up(texts, bool(images), token, empty_answer)
    return Conversation(rounds, images, moved, skipped, len(texts) // 2 - len(rounds), unused, system, token)


def _read_system(turn: dict[str, Any], keys: RecordKeys, takes_system: bool) -> str | None:
    """The text of a system turn; None where it is null or blank."""
    text = turn.get(keys.content)
    if type(text) is not str and text is not None:
        raise Rejected(Reason.BAD_TURN, f"{keys.content!r} of the system turn is {json_type(text)}, expected a text")
    if not text or text.isspace():
        return None
    if not takes_system:
        raise Rejected(
            Reason.NO_PLACE_FOR_SYSTEM,
            f"the record has a system text, {shorten(text)}, but the template no place for it",
        )
    return text


def _read_turns(turns: list[Any], before: int, keys: RecordKeys) -> list[str]:
    """The texts of the turns after the first `before`, whose roles must alternate human, gpt, human, …"""
    texts: list[str] = []
    role_key, content_key = keys.role, keys.content
    expected, other = HUMAN, ASSISTANT
    for turn in turns[before:] if before else turns:
        if type(turn) is not dict:
            raise Rejected(Reason.BAD_TURN, f"turn {_number(texts, before)} is {json_type(turn)}, expected an object")
        role, text = turn.get(role_key), turn.get(content_key)
        if role != expected:
            raise _wrong_role(role, expected, role_key, _number(texts, before))
        if text is None and expected is ASSISTANT and content_key in turn:
            text = ""  # an answer of null is an empty one
        if type(text) is not str:
            raise Rejected(
                Reason.BAD_TURN,
                f"{content_key!r} of turn {_number(texts, before)} is {json_type(text)}, expected a text",
            )
        texts.append(text)
        expected, other = other, expected
    return texts


def _number(texts: list[str], before: int) -> int:
    """The number, from 1, of the turn after those that were read."""
    return before + len(texts) + 1


def _wrong_role(role: object, expected: str, role_key: str, number: int) -> Rejected:
    if role == SYSTEM:
        return Rejected(
            Reason.SYSTEM_NOT_FIRST, f"turn {number} is {SYSTEM!r}, expected one such turn at most, the first"
        )
    if role in (HUMAN, ASSISTANT):
        return Rejected(Reason.ROLE_ORDER, f"turn {number} is {role!r}, expected {expected!r}")
    shown = shorten(role) if isinstance(role, str) else repr(role)[:80]
    return Rejected(Reason.UNKNOWN_ROLE, f"turn {number} has {role_key!r} {shown}, expected {HUMAN!r} or {ASSISTANT!r}")


def _pair_up(texts: list[str], has_image: bool, token: str, empty_answer: EmptyAnswer) -> list[tuple[str, str]]:
    """The rounds that are trained on; see `read_conversation`.

    Images in place (`token`) of a round that is left out stand, each on a line, before the next question.
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
            answer = ""
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
            f"the answer of the last round is empty, and no round follows for its {waiting} image(s)",
        )
    return rounds
