"""The three kinds of instruction data, and the ids of requests."""

from __future__ import annotations

from enum import Enum


class Kind(str, Enum):
    """The kind of text that the model is asked to write about an image."""

    CONVERSATION = "conversation"
    DETAIL = "detail"
    REASONING = "reasoning"

    @property
    def uses_boxes(self) -> bool:
        """Whether requests list boxes after the captions."""
        return self is not Kind.CONVERSATION

    @property
    def answers_in_rounds(self) -> bool:
        """Whether an answer contains questions; otherwise `read` adds one of the questions of the prompt file."""
        return self is not Kind.DETAIL


def custom_id(kind: Kind, image_id: str) -> str:
    """The id of a request for one kind of data about one image."""
    return f"{kind.value}_{image_id}"


def parse_custom_id(request_id: str) -> tuple[Kind, str]:
    """The kind and the image id of a request.

    Raises:
        ValueError: the id does not have the form of `custom_id`.
    """
    name, _, image_id = request_id.partition("_")
    if not image_id:
        raise ValueError(request_id)
    return Kind(name), image_id
