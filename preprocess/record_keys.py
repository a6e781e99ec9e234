"""The keys of a record: which are used, which hold media that no row can, and which are left out and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from preprocess.records import json_type
from preprocess.rejects import Reason, Rejected, shorten

# Keys under which published datasets keep media. Text about media that are left out would train a model to invent.
MEDIA_KEYS = frozenset(
    f"{medium}{plural}" for medium in ("image", "video", "audio", "speech", "point_cloud") for plural in ("", "s")
)
# What a list of images is called, besides the name that the config gives.
IMAGES = "images"
# Names beyond the bounds below are counted together under this one.
OTHER_KEYS = "(other keys)"
_MOST_NAMES = 100
_LONGEST_NAME = 80
# Sets of keys that are remembered, and the characters that the keys of one may have together.
_MOST_KNOWN = 1000
_LONGEST_KNOWN = 2000


class _Unused(NamedTuple):
    """What a set of keys has beside those that are used: media, and names to be counted."""

    media: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class RecordKeys:
    """What the parts of a record are called, and the text that stands for an image.

    Attributes:
        image: the key of the images, which may be called `images` too.
        image_token: stands for an image in a text.
        turns, content, role: the keys of the turns, and of the text and the role of each.
        system: the keys of a system text beside the turns.
        human_roles, assistant_roles, system_roles: the roles of those turns.
    """

    image: str = "image"
    image_token: str = "<image>"
    turns: str = "conversations"
    content: str = "value"
    role: str = "from"
    system: tuple[str, ...] = ()
    human_roles: tuple[str, ...] = ("human",)
    assistant_roles: tuple[str, ...] = ("gpt",)
    system_roles: tuple[str, ...] = ("system",)

    def unused(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of a record's top-level keys that no part of a row is made of; `id` names it in `rejects.jsonl`.

        Raises:
            Rejected: UNSUPPORTED_MEDIA, one of them holds media. One that is null or empty is like any other key.
        """
        keys = tuple(record)
        found = self._known.get(keys)
        if found is None:
            found = self._split(keys)
            if sum(map(len, keys)) <= _LONGEST_KNOWN:
                if len(self._known) == _MOST_KNOWN:
                    self._known.clear()
                self._known[keys] = found
        for name in found.media:
            value = record[name]
            if any(value) if type(value) is list else value:
                found_there = shorten(value) if type(value) is str else json_type(value)
                raise Rejected(
                    Reason.UNSUPPORTED_MEDIA,
                    f"{name!r} is {found_there}, but a row takes text and the images under {self.image!r} only",
                )
        return found.names

    def unused_in_turns(self, turns: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
        """The same of the keys of its turns, such as `conversations[].weight`."""
        names = {name: None for turn in turns for name in turn if name not in (self.role, self.content)}
        return _bounded([f"{self.turns}[].{name}" for name in names])

    @cached_property
    def _known(self) -> dict[tuple[str, ...], _Unused]:
        """Of the sets of keys met last: most records of a file have the same."""
        return {}

    def _split(self, keys: tuple[str, ...]) -> _Unused:
        unused = [name for name in keys if name not in ("id", self.image, IMAGES, self.turns, *self.system)]
        return _Unused(media=tuple(name for name in unused if name in MEDIA_KEYS), names=_bounded(unused))


def _bounded(names: list[str]) -> tuple[str, ...]:
    """A bounded number of names of bounded length; more are one."""
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in names[:_MOST_NAMES]]
    return (*shown, *[OTHER_KEYS] * (len(names) > _MOST_NAMES))


class UnusedKeys:
    """Unused key → records that have it, for a bounded number of names: those met first."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, names: Iterable[tuple[str, ...]]) -> None:
        """Count what `RecordKeys.unused` gave for some records, in order."""
        for some, records in Counter(names).items():
            self.update(dict.fromkeys(some, records))

    def update(self, counts: Mapping[str, int]) -> None:
        """Add up other counts."""
        for name, records in counts.items():
            is_kept = name in self.counts or len(self.counts) < _MOST_NAMES
            self.counts[name if is_kept else OTHER_KEYS] += records

    def ranked(self) -> dict[str, int]:
        """The counts, the most frequent name first."""
        return dict(sorted(self.counts.items(), key=lambda item: (-item[1], item[0])))
