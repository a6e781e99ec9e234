"""The images of a record: their paths, and where they stand in its texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preprocess.record_keys import IMAGES, RecordKeys
from preprocess.records import json_type
from preprocess.rejects import Reason, Rejected


def read_images(record: Mapping[str, Any], keys: RecordKeys) -> tuple[str, ...]:
    """The image paths of a record, in order: a path or a list of them; what is null or empty is no image.

    Raises:
        Rejected: both keys name images, or something is not a path.
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
            raise Rejected(Reason.IMAGE_NOT_A_PATH, f"{key!r} holds {json_type(path)}, expected paths")
    return tuple(path for path in value if path)


def take_out_image(texts: list[str], has_image: bool, token: str) -> bool:
    """Take the image token out of the first question, as the authors of LLaVA 1.5 do with its one image.

    They remove every image token of the turn, put one in front and strip the rest (`preprocess_multimodal`,
    haotian-liu/LLaVA, llava/train/train.py).

    Args:
        texts: questions and answers in turn; the first question is changed.
        has_image: the record has an image, which is one.
        token: the text that stands for an image.

    Returns:
        whether the token stood elsewhere than at the start of the question.

    Raises:
        Rejected: there is an image and no token, a token and no image, or a token elsewhere.
    """
    for position, text in enumerate(texts):
        if position and token in text:
            if not has_image:
                raise Rejected(Reason.TOKEN_WITHOUT_IMAGE, f"turn {position + 1} holds {token}, but there is no image")
            raise Rejected(
                Reason.TOKEN_OUTSIDE_FIRST_TURN,
                f"turn {position + 1} holds {token}, expected it in the first turn only",
            )
    first = texts[0]
    if not has_image:
        if token in first:
            raise Rejected(Reason.TOKEN_WITHOUT_IMAGE, f"the first turn holds {token}, but there is no image")
        return False
    if token not in first:
        raise Rejected(Reason.IMAGE_WITHOUT_TOKEN, f"there is an image, but no {token} in the first turn")
    texts[0] = first.replace(token, "").strip()
    return not first.startswith(token) or first.count(token) > 1


def require_places(texts: Sequence[str], images: int, token: str) -> None:
    """Every image token in a question stands for one image, in order.

    Args:
        texts: questions and answers in turn.
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
                f"turn {position + 1} is the assistant's and holds {token}, expected it in the human's turns only",
            )
        tokens += text.count(token)
    if tokens != images:
        reason = Reason.IMAGE_WITHOUT_TOKEN if tokens < images else Reason.TOKEN_WITHOUT_IMAGE
        raise Rejected(reason, f"there are {images} images and {tokens} times {token}, expected one for each")


def move_single_tokens(texts: list[str], token: str) -> bool:
    """Move a token that stands alone in a question, and not at its start, to a line of its own in front.

    So the authors of LLaVA do with several images; a question of two tokens and more stays as it is
    (`preprocess_multimodal`, LLaVA-VL/LLaVA-NeXT, llava/train/train.py).

    Args:
        texts: questions and answers in turn; questions are changed.
        token: the text that stands for an image.

    Returns:
        whether one was moved.
    """
    moved = False
    for position in range(0, len(texts), 2):
        text = texts[position]
        if text.count(token) == 1 and not text.startswith(token):
            rest = text.replace(token, "").strip()
            texts[position] = f"{token}\n{rest}" if rest else token
            moved = True
    return moved
