"""The images of a record: their paths, and the positions of their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preprocess.record_keys import IMAGES, RecordKeys
from preprocess.records import json_type
from preprocess.rejects import Reason, Rejected


def read_images(record: Mapping[str, Any], keys: RecordKeys) -> tuple[str, ...]:
    """The image paths of a record, in order. Null and empty values are no images.

    Raises:
        Rejected: both keys name images, or a value is neither a path nor a list of paths.
    """
    images = _paths(record.get(keys.image), keys.image)
    if IMAGES in record and keys.image != IMAGES:
        others = _paths(record[IMAGES], IMAGES)
        if others and images:
            raise Rejected(
                Reason.IMAGES_NAMED_TWICE, f"both {keys.image!r} and {IMAGES!r} name images, expected one of them"
            )
        return images or others
    return images


def _paths(value: object, key: str) -> tuple[str, ...]:
    if type(value) is str:
        return (value,) if value else ()
    if value is None:
        return ()
    if type(value) is not list:
        raise Rejected(Reason.IMAGE_NOT_A_PATH, f"{key!r} is {json_type(value)}, expected a path or a list of paths")
    for path in value:
        if type(path) is not str and path is not None:
            raise Rejected(Reason.IMAGE_NOT_A_PATH, f"{key!r} contains {json_type(path)}, expected paths")
    return tuple(path for path in value if path)


def take_out_image(texts: list[str], has_image: bool, token: str) -> bool:
    """Take the image token out of the first question, as the authors of LLaVA 1.5 do with its one image.

    They remove every image token of the turn, put one in front and strip the rest (`preprocess_multimodal`,
    haotian-liu/LLaVA, llava/train/train.py).

    Args:
        texts: alternating questions and answers; the first question is changed.
        has_image: the record has exactly one image; if false, none.
        token: the text that stands for an image.

    Returns:
        whether the token was not at the start of the question.

    Raises:
        Rejected: there is an image and no token, a token and no image, or a token in another turn.
    """
    for position, text in enumerate(texts):
        if position and token in text:
            if not has_image:
                raise Rejected(Reason.TOKEN_WITHOUT_IMAGE, f"turn {position + 1} holds {token}, but there is no image")
            raise Rejected(
                Reason.TOKEN_OUTSIDE_FIRST_TURN,
                f"turn {position + 1} contains {token}, expected it in the first turn only",
            )
    first = texts[0]
    if not has_image:
        if token in first:
            raise Rejected(Reason.TOKEN_WITHOUT_IMAGE, f"the first turn contains {token}, but the record has no image")
        return False
    if token not in first:
        raise Rejected(Reason.IMAGE_WITHOUT_TOKEN, f"the record has an image, but the first turn has no {token}")
    texts[0] = first.replace(token, "").strip()
    return not first.startswith(token) or first.count(token) > 1


def require_places(texts: Sequence[str], images: int, token: str) -> None:
    """Check that the questions contain one image token per image.

    Args:
        texts: alternating questions and answers.
        images: how many the record has.
        token: the text that stands for an image.

    Raises:
        Rejected: more images than tokens, more tokens than images, or a token in an answer.
    """
    tokens = 0
    for position, text in enumerate(texts):
        if token not in text:
            continue
        if not images:
            raise Rejected(Reason.TOKEN_WITHOUT_IMAGE, f"turn {position + 1} holds {token}, but there is no image")
        if position % 2:
            raise Rejected(
                Reason.TOKEN_OUTSIDE_HUMAN_TURN,
                f"turn {position + 1} is an assistant turn and contains {token}, which is allowed in human turns only",
            )
        tokens += text.count(token)
    if tokens != images:
        reason = Reason.IMAGE_WITHOUT_TOKEN if tokens < images else Reason.TOKEN_WITHOUT_IMAGE
        raise Rejected(
            reason, f"the record has {images} images and {tokens} {token} tokens, expected one token per image"
        )


def move_single_tokens(texts: list[str], token: str) -> bool:
    """Move the only image token of a question to a separate line before it.

    This follows the LLaVA authors' handling of several images; questions with two or more tokens are not changed
    (`preprocess_multimodal`, LLaVA-VL/LLaVA-NeXT, llava/train/train.py).

    Args:
        texts: alternating questions and answers; questions are changed.
        token: the text that stands for an image.

    Returns:
        whether a token was moved.
    """
    moved = False
    for position in range(0, len(texts), 2):
        text = texts[position]
        if text.count(token) == 1 and not text.startswith(token):
            rest = text.replace(token, "").strip()
            texts[position] = f"{token}\n{rest}" if rest else token
            moved = True
    return moved
