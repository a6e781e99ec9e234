"""The three kinds of instruction data, and the ids that name a request."""

from __future__ import annotations

from enum import Enum


class Kind(str, Enum):
    """What the model is asked to write about an image."""

    CONVERSATION = "conversation"
    DETAIL = "detail"
    REASONING = "reasoning"

    @property
    def sees_boxes(self) -> bool:
        """Whether the context of a request lists boxes below the captions."""
        return self is not Kind.CONVERSATION

    @property
    def answers_in_rounds(self) -> bool:
        """Whether an answer holds its own questions; otherwise it is the answer to a question of ours."""
        return self is not Kind.DETAIL


def custom_id(kind: Kind, image_id: str) -> str:
    """The id of the request for one kind of data about one image."""
    return f"{kind.value}_{image_id}"


def parts_of(request_id: str) -> tuple[Kind, str]:
    """Kind and image id of a request.

    Raises:
        ValueError: no request has such an id.
    """
    name, _, image_id = request_id.partition("_")
    if not image_id:
        raise ValueError(request_id)
    return Kind(name), image_id
