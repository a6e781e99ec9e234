"""The closed list of reasons for which a record is rejected, and the exception that carries one."""

from __future__ import annotations

from enum import Enum


class Reason(str, Enum):
    """Why a record was rejected; the value is what `rejects.jsonl` and `data_params.json` show."""

    # The line itself.
    LINE_TOO_LONG = "line_too_long"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    UNSUPPORTED_MEDIA = "unsupported_media"
    # The turns.
    NO_TURNS = "no_turns"
    BAD_TURN = "bad_turn"
    UNKNOWN_ROLE = "unknown_role"
    TOOL_TURN = "tool_turn"
    SYSTEM_NOT_FIRST = "system_not_first"
    TWO_SYSTEM_TEXTS = "two_system_texts"
    NO_PLACE_FOR_SYSTEM = "no_place_for_system"
    ROLE_ORDER = "role_order"
    ODD_TURNS = "odd_turns"
    EMPTY_QUESTION = "empty_question"
    EMPTY_ANSWER = "empty_answer"
    NOT_ONE_ROUND = "not_one_round"
    # The images as the record names them.
    IMAGE_NOT_A_PATH = "image_not_a_path"
    IMAGE_NOT_LOCAL = "image_not_local"
    IMAGES_NAMED_TWICE = "images_named_twice"
    TOO_MANY_IMAGES = "too_many_images"
    IMAGE_WITHOUT_TOKEN = "image_without_token"
    TOKEN_WITHOUT_IMAGE = "token_without_image"
    TOKEN_OUTSIDE_FIRST_TURN = "token_outside_first_turn"
    TOKEN_OUTSIDE_HUMAN_TURN = "token_outside_human_turn"
    TEXT_ONLY_IN_PLAIN = "text_only_in_plain"
    # The image on disk.
    IMAGE_OUTSIDE = "image_outside"
    IMAGE_MISSING = "image_missing"
    IMAGE_UNREADABLE = "image_unreadable"
    # The chat template.
    CHAT_TEMPLATE_FAILED = "chat_template_failed"
    CHAT_TEMPLATE_CHANGES_TEXT = "chat_template_changes_text"
    # The tokens.
    TOO_LONG = "too_long"
    NOTHING_SUPERVISED = "nothing_supervised"
    IMAGE_NOT_AT_START_IDX = "image_not_at_start_idx"
    SUPERVISED_AT_DUMMY_IMAGE = "supervised_at_dummy_image"
    # The task.
    SKIPPED = "skipped"


class Rejected(Exception):
    """A record is rejected. `detail` describes what was found.

    `reason` is a `Reason` when rows are written, and a `SourceReason` in the converters of source datasets.
    """

    def __init__(self, reason: Enum, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


def shorten(text: str, limit: int = 80) -> str:
    """`text` for a message: quoted, in one line, cut after `limit` characters."""
    shown = repr(text[: limit + 1])
    return shown if len(text) <= limit else f"{text[:limit]!r}… ({len(text)} characters)"
