"""The interface of all templates: render a conversation to segments."""

from __future__ import annotations

from abc import ABC, abstractmethod

from preprocess.conversation import Conversation, TemplateTraits
from preprocess.segments import Mark, Segment


class Renderer(ABC):
    """A template that is set up for a tokenizer.

    Attributes:
        traits: the conversations that it supports.
    """

    traits: TemplateTraits

    @abstractmethod
    def render(self, conversation: Conversation) -> list[Segment]:
        """The segments of the conversation."""

    def before_image(self) -> list[Segment]:
        """The segments before the image of a record whose first question begins with the image token.

        They are the same for all records without a system turn, unless the template puts a text of the record there.
        """
        token = "" if self.traits.image_in_front else "<image>"
        rounds = [(f"{token}\nx" if token else "x", "x")]
        segments = self.render(Conversation(rounds, ("x",), False, False, image_token=token))
        return segments[: next(i for i, part in enumerate(segments) if part in (Mark.IMAGE, Mark.IMAGE_TOKEN))]
