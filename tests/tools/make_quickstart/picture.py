"""A drawn image with its texts, and functions that form English phrases."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

NUMBER_WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

Round = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image of the example: its path below `images/`, its caption and its question-answer rounds."""

    path: str
    image: Image.Image
    caption: str
    rounds: tuple[Round, ...]


def with_article(noun: str) -> str:
    """Put "a" or "an" in front."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """Give the plural of a regular noun, whose last word carries the ending."""
    return noun + ("es" if noun.endswith(("s", "ss", "sh", "ch", "x")) else "s")


def counted(count: int, noun: str) -> str:
    """Say how many: "a circle", "three circles", "no circles"."""
    return with_article(noun) if count == 1 else f"{NUMBER_WORDS[count]} {plural(noun)}"


def listed(parts: Sequence[str]) -> str:
    """Join with commas and a last "and"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def there_are(count: int, noun: str) -> str:
    """Say how many there are, as a sentence."""
    if count == 1:
        return f"There is one {noun}."
    return f"There are {NUMBER_WORDS[count]} {plural(noun)}."


def sentence(text: str) -> str:
    """Start with a capital letter and end with a full stop."""
    return f"{text[0].upper()}{text[1:]}."
