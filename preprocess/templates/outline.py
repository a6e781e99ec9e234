"""The constant parts of a rendered chat template, computed once, with placeholders for the texts of a record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from preprocess.segments import ConstantSegments, Mark, Segment, Special, Text
from preprocess.tokenize.tokenizer import AddedToken

# Unicode whitespace, which `tokenizers` strips next to a special token.
WHITESPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


@dataclass(frozen=True)
class Placeholder:
    """Placeholder for a text of the record.

    Attributes:
        head, tail: adjacent texts of the template, joined with it.
        supervised: as in `Text`.
        strips_leading: leading whitespace of the text is dropped, as the special token before it requires.
    """

    supervised: bool
    head: str = ""
    tail: str = ""
    strips_leading: bool = False

    def fill(self, out: list[Segment], text: str, image_token: str) -> None:
        """Append the text to `out`, with an image for each image token in it; none if `image_token` is empty."""
        parts = text.split(image_token) if image_token and image_token in text else [text]
        parts[0] = self.head + parts[0]
        parts[-1] += self.tail
        if self.strips_leading:
            parts[0] = parts[0].lstrip(WHITESPACE)
        for number, part in enumerate(parts):
            if number:
                out.append(Mark.IMAGE_TOKEN)
            if part:
                out.append(Text(part, self.supervised))


Outline = tuple[Segment | Placeholder, ...]
# A text of the template, a token, or None for a text of the record; and whether it is supervised.
Part = tuple[str | tuple[Special, AddedToken] | None, bool]


def make_outline(parts: Iterable[Part]) -> Outline | None:
    """The outline of a conversation.

    Args:
        parts: the parts of the conversation, in order.

    Returns:
        the outline; None if a text of the template depends on a record's text next to it, because a special token
        strips the whitespace before it, or strips the whitespace after it up to a text with another supervised flag.
    """
    found: list[Segment | Placeholder] = []
    strips_leading = False
    for part, supervised in parts:
        last = found[-1] if found else None
        if isinstance(part, tuple):
            special, token = part
            if token.lstrip:
                return None
            found.append(special)
            strips_leading = token.rstrip
        elif part is None:
            if isinstance(last, Placeholder):
                return None
            head = ""
            if isinstance(last, Text) and last.supervised == supervised:
                head = last.text
                found.pop()
            found.append(Placeholder(supervised, head, strips_leading=strips_leading))
            strips_leading = False
        else:
            text = part.lstrip(WHITESPACE) if strips_leading else part
            if not text:
                continue
            strips_leading = False
            if isinstance(last, Placeholder) and last.supervised == supervised:
                found[-1] = Placeholder(supervised, last.head, last.tail + text, last.strips_leading)
            elif isinstance(last, Placeholder) and last.strips_leading and not last.head:
                return None
            elif isinstance(last, Text) and last.supervised == supervised:
                found[-1] = Text(last.text + text, supervised, constant=True)
            else:
                found.append(Text(text, supervised, constant=True))
    return _merge_constants(found)


def _merge_constants(parts: Sequence[Segment | Placeholder]) -> Outline:
    """Replace each run of constant parts that starts and ends with a special token and has one supervised flag."""
    found: list[Segment | Placeholder] = []
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
        found += [*run[:first], ConstantSegments(inner), *run[last:]]
    return tuple(found)


def _constant_kind(part: Segment | Placeholder) -> bool | None:
    """The supervised flag of a special token or a text of the template; None for anything else."""
    return part.supervised if isinstance(part, (Special, Text)) else None
