"""The closed list of reasons for which a source record is rejected."""

from __future__ import annotations

from enum import Enum


class SourceReason(str, Enum):
    """Why a source record was rejected; the value is what `*.rejects.jsonl` shows."""

    # The record in the file.
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    LONE_SURROGATE = "lone_surrogate"
    NOT_AN_OBJECT = "not_an_object"
    WRONG_COLUMNS = "wrong_columns"
    UNREADABLE_ROW = "unreadable_row"
    UNREADABLE_FILE = "unreadable_file"  # the whole file, or its part after damage
    # Its fields.
    NO_ID = "no_id"
    NO_QUESTION = "no_question"
    NO_ANSWER = "no_answer"
    NO_CAPTION = "no_caption"
    IMAGE_TOKEN_IN_TEXT = "image_token_in_text"
    # The conversation.
    NO_TURNS = "no_turns"
    BAD_TURN = "bad_turn"
    UNKNOWN_ROLE = "unknown_role"
    BELOW_MIN_RATING = "below_min_rating"
    IMAGE_TOKENS = "image_tokens"
    # Multiple choice.
    NO_OPTIONS = "no_options"
    LABEL_NOT_AN_OPTION = "label_not_an_option"
    LABEL_PAST_OPTIONS = "label_past_options"
    # The image.
    NO_IMAGE = "no_image"
    SEVERAL_PAIRS = "several_pairs"
    IMAGE_OUTSIDE_PREFIX = "image_outside_prefix"
    IMAGE_NAME_TAKEN = "image_name_taken"
    IMAGE_DOES_NOT_DECODE = "image_does_not_decode"
    # Instruction data: annotations and answers.
    BAD_BOX = "bad_box"
    DUPLICATE_ID = "duplicate_id"
    REFUSAL = "refusal"
    ODD_ROUNDS = "odd_rounds"
    EMPTY_PART = "empty_part"
    UNEXPECTED_LAYOUT = "unexpected_layout"
    CUT_OFF = "cut_off"
    UNKNOWN_ID = "unknown_id"
    HTTP_ERROR = "http_error"
    BAD_RESPONSE = "bad_response"
