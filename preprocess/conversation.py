"""A record → validated rounds of question and answer and their images, or a reject."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from preprocess.record_keys import RecordKeys
from preprocess.records import json_type
from preprocess.rejects import Reason, Rejected, shorten

HUMAN, ASSISTANT = "human", "gpt"
EmptyAnswer = Literal["reject", "drop_round", "keep"]


class Conversation(NamedTuple):
    """One validated record.

    Attributes:
        rounds: (question, answer) texts; with an image, the first question no longer holds the image token
            and is stripped, as the LLaVA authors do (`preprocess_multimodal`, haotian-liu/LLaVA,
            llava/train/train.py).
        images: paths relative to the image folder; empty for a text-only record.
        image_moved: the image token did not stand once, at the start of the first question.
        first_turn_skipped: the record began with an assistant turn, which was left out as the authors do.
        rounds_dropped: rounds that were left out because their answer is empty.
        unused_keys: names of the record's keys that no part of a row is made of.
    """

    rounds: list[tuple[str, str]]
    images: tuple[str, ...]
    image_moved: bool
    first_turn_skipped: bool
    rounds_dropped: int = 0
    unused_keys: tuple[str, ...] = ()


def read_conversation(
    record: dict[str, Any],
    keys: RecordKeys,
    *,
    only_one_round: bool = False,
    repair_text: bool = False,
    empty_answer: EmptyAnswer = "drop_round",
) -> Conversation:
    """Validate a record.

    Args:
        record: the parsed JSON object.
        keys: the names of its parts.
        only_one_round: accept exactly one human turn with an image and one answer (template `plain`).
        repair_text: pass every text through `ftfy.fix_text` (NFC) first.
        empty_answer: what becomes of a round whose answer is null, empty or blank: the record is rejected; the round
            is left out, unless no other is left, and its image belongs to the next; or the answer is "".

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
    image = read_image(record.get(keys.image), keys.image)

    skipped = False
    if not only_one_round and type(turns[0]) is dict and turns[0].get(keys.role) == ASSISTANT:
        turns, skipped = turns[1:], True
        if not turns:
            raise Rejected(Reason.NO_TURNS, "the only turn is one of 'gpt', expected a 'human' turn first")

    texts = _read_turns(turns, keys)
    if len(texts) % 2:
        raise Rejected(Reason.ODD_TURNS, f"{len(texts)} turns, expected pairs of 'human' and 'gpt'")
    if only_one_round and len(texts) != 2:
        raise Rejected(Reason.NOT_ONE_ROUND, f"{len(texts)} turns, expected one 'human' and one 'gpt' turn for plain")
    if repair_text:
        import ftfy  # only here: most runs never need its tables

        texts = [ftfy.fix_text(text, normalization="NFC") for text in texts]

    first, moved = _take_out_image(texts, image, keys, only_one_round)
    texts[0] = first
    rounds = _pair_up(texts, image is not None, empty_answer)
    images = () if image is None else (image,)
    return Conversation(rounds, images, moved, skipped, len(texts) // 2 - len(rounds), unused)


def read_image(value: object, key: str) -> str | None:
    """The one image path of a record, None where it is absent, null or empty.

    Raises:
        Rejected: more than one image, or something that is not a path.
    """
    if value is None or value in ("", []):
        return None
    if type(value) is list:
        if len(value) > 1:
            raise Rejected(Reason.MORE_THAN_ONE_IMAGE, f"{key!r} lists {len(value)} images, expected one")
        return read_image(value[0], key)
    if type(value) is not str:
        raise Rejected(Reason.IMAGE_NOT_A_PATH, f"{key!r} is {json_type(value)}, expected a path")
    return value


def _read_turns(turns: list[Any], keys: RecordKeys) -> list[str]:
    """The texts of the turns, whose roles must alternate human, gpt, human, …"""
    texts = []
    role_key, content_key = keys.role, keys.content
    for position, turn in enumerate(turns):
        if type(turn) is not dict:
            raise Rejected(Reason.BAD_TURN, f"turn {position + 1} is {json_type(turn)}, expected an object")
        role, text = turn.get(role_key), turn.get(content_key)
        if role != (ASSISTANT if position % 2 else HUMAN):
            if role not in (HUMAN, ASSISTANT):
                shown = shorten(role) if isinstance(role, str) else repr(role)[:80]
                raise Rejected(
                    Reason.UNKNOWN_ROLE,
                    f"turn {position + 1} has {role_key!r} {shown}, expected {HUMAN!r} or {ASSISTANT!r}",
                )
            raise Rejected(
                Reason.ROLE_ORDER,
                f"turn {position + 1} is {role!r}, expected {ASSISTANT if position % 2 else HUMAN!r}",
            )
        if text is None and position % 2 and content_key in turn:
            text = ""  # an answer of null is an empty one
        if type(text) is not str:
            raise Rejected(
                Reason.BAD_TURN, f"{content_key!r} of turn {position + 1} is {json_type(text)}, expected a text"
            )
        texts.append(text)
    return texts


def _pair_up(texts: list[str], has_image: bool, empty_answer: EmptyAnswer) -> list[tuple[str, str]]:
    """The rounds that are trained on; see `read_conversation`."""
    rounds: list[tuple[str, str]] = []
    for number, (question, answer) in enumerate(zip(texts[0::2], texts[1::2], strict=True)):
        if not answer or answer.isspace():
            if empty_answer == "reject":
                raise Rejected(Reason.EMPTY_ANSWER, f"the answer of round {number + 1} is empty")
            if empty_answer == "drop_round":
                continue
            answer = ""
        if not question and (rounds or not has_image):
            raise Rejected(Reason.EMPTY_QUESTION, f"the question of round {number + 1} is empty")
        rounds.append((question, answer))
    if not rounds:
        others = ", and no other round has one" if len(texts) > 2 else ""
        raise Rejected(Reason.EMPTY_ANSWER, f"the answer of round 1 is empty{others}")
    return rounds


def _take_out_image(texts: list[str], image: str | None, keys: RecordKeys, plain: bool) -> tuple[str, bool]:
    """The first question without the image token, and whether the token stood elsewhere than at its start."""
    token, first = keys.image_token, texts[0]
    for position, text in enumerate(texts):
        if position and token in text:
            if image is None:
                raise Rejected(Reason.TOKEN_WITHOUT_IMAGE, f"turn {position + 1} holds {token}, but there is no image")
            raise Rejected(
                Reason.TOKEN_OUTSIDE_FIRST_TURN,
                f"turn {position + 1} holds {token}, expected it in the first turn only",
            )
    if image is None:
        if token in first:
            raise Rejected(Reason.TOKEN_WITHOUT_IMAGE, f"the first turn holds {token}, but there is no image")
        if plain:
            raise Rejected(Reason.TEXT_ONLY_IN_PLAIN, "there is no image, which the template plain needs")
        return first, False
    if token not in first:
        raise Rejected(Reason.IMAGE_WITHOUT_TOKEN, f"there is an image, but no {token} in the first turn")
    # The authors remove every image token of the turn and put one image in front.
    return first.replace(token, "").strip(), not first.startswith(token) or first.count(token) > 1
