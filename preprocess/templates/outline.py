"""What a chat template writes around texts, worked out once: then a record only fills in its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from preprocess.segments import Fixed, Mark, Segment, Special, Text
from preprocess.tokenize.tokenizer import AddedToken

# Unicode's white space, which `tokenizers` takes for the blanks beside a special token.
BLANKS = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


@dataclass(frozen=True)
class Place:
    """Where a text of a record goes.

    Attributes:
        head, tail: texts of the template that are one text with it.
        supervised: as in `Text`.
        drops_blanks: the special token before it takes the blanks that it begins with.
    """

    supervised: bool
    head: str = ""
    tail: str = ""
    drops_blanks: bool = False

    def fill(self, out: list[Segment], text: str, image_token: str) -> None:
        """Add the text, with an image for each image token in it (none where that is empty)."""
        parts = text.split(image_token) if image_token and image_token in text else [text]
        parts[0] = self.head + parts[0]
        parts[-1] += self.tail
        if self.drops_blanks:
            parts[0] = parts[0].lstrip(BLANKS)
        for number, part in enumerate(parts):
            if number:
                out.append(Mark.IMAGE_TOKEN)
            if part:
                out.append(Text(part, self.supervised))


Outline = tuple[Segment | Place, ...]
# A text of the template, a token, or None for the place of a text; with whether it is supervised.
Part = tuple[str | tuple[Special, AddedToken] | None, bool]


def make_outline(parts: Iterable[Part]) -> Outline | None:
    """The outline of a conversation.

    Args:
        parts: what the template writes, in order.

    Returns:
        None where a text of a record may decide what becomes of a text of the template beside it: a token takes the
        blanks before it, or those behind it up to a text that is supervised otherwise.
    """
    found: list[Segment | Place] = []
    drops_blanks = False
    for part, supervised in parts:
        last = found[-1] if found else None
        if isinstance(part, tuple):
            special, token = part
            if token.takes_blanks_before:
                return None
            found.append(special)
            drops_blanks = token.takes_blanks_behind
        elif part is None:
            if isinstance(last, Place):
                return None
            head = ""
            if isinstance(last, Text) and last.supervised == supervised:
                head = last.text
                found.pop()
            found.append(Place(supervised, head, drops_blanks=drops_blanks))
            drops_blanks = False
        else:
            text = part.lstrip(BLANKS) if drops_blanks else part
            if not text:
                continue
            drops_blanks = False
            if isinstance(last, Place) and last.supervised == supervised:
                found[-1] = Place(supervised, last.head, last.tail + text, last.drops_blanks)
            elif isinstance(last, Place) and last.drops_blanks and not last.head:
                return None
            elif isinstance(last, Text) and last.supervised == supervised:
                found[-1] = Text(last.text + text, supervised, constant=True)
            else:
                found.append(Text(text, supervised, constant=True))
    return _fixed(found)


def _fixed(parts: Sequence[Segment | Place]) -> Outline:
    """The same with each run of constant parts between two special tokens, supervised alike, as one."""
    found: list[Segment | Place] = []
    for supervised, group in groupby(parts, key=lambda part: _constant_kind(part)):
        run = list(group)
        if supervised is None:
            found += run
            continue
        tokens = [place for place, part in enumerate(run) if isinstance(part, Special)]
        if len(tokens) < 2:
            found += run
            continue
        first, last = tokens[0], tokens[-1] + 1
        inner = tuple(part for part in run[first:last] if isinstance(part, (Special, Text)))
        found += [*run[:first], Fixed(inner), *run[last:]]
    return tuple(found)


def _constant_kind(part: Segment | Place) -> bool | None:
    """Whether a special token or a text of the template is supervised; None for anything else."""
    return part.supervised if isinstance(part, (Special, Text)) else None
