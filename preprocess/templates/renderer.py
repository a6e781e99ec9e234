"""What all templates have in common: a conversation becomes segments."""

from __future__ import annotations

from abc import ABC, abstractmethod

from preprocess.conversation import Conversation, TemplateTraits
from preprocess.segments import Mark, Segment


class Renderer(ABC):
    """A template, set up for a tokenizer.

    Attributes:
        traits: what conversations it takes.
    """

    traits: TemplateTraits

    @abstractmethod
    def render(self, conversation: Conversation) -> list[Segment]:
        """The whole conversation."""

    def before_image(self) -> list[Segment]:
        """What stands before the image of a record whose first question begins with the image token.

        It is the same in all records that have no system turn, if the template puts nothing of the record there.
        """
        token = "" if self.traits.image_in_front else "<image>"
        rounds = [(f"{token}\nx" if token else "x", "x")]
        segments = self.render(Conversation(rounds, ("x",), False, False, image_token=token))
        return segments[: next(i for i, part in enumerate(segments) if part in (Mark.IMAGE, Mark.IMAGE_TOKEN))]
