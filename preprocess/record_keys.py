"""The keys of a record: which are used, which hold unsupported media, and which are ignored and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from preprocess.records import json_type
from preprocess.rejects import Reason, Rejected, shorten

# Keys under which published datasets store media. Text about missing media would train a model to hallucinate.
MEDIA_KEYS = frozenset(
    f"{medium}{plural}" for medium in ("image", "video", "audio", "speech", "point_cloud") for plural in ("", "s")
)
# Accepted for the images besides the key that the config names.
IMAGES = "images"
# Names beyond the limits below are counted together under this name.
OTHER_KEYS = "(other keys)"
_MAX_NAMES = 100
_LONGEST_NAME = 80
# Number of cached sets of keys, and the total number of characters in the keys of one set.
_MAX_KNOWN = 1000
_LONGEST_KNOWN = 2000


class _Unused(NamedTuple):
    """The unused keys of a set: those of media, and all names, for counting."""

    media: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class RecordKeys:
    """The key names and role names of a record, and the image token.

    Attributes:
        image: the key of the images; `images` is accepted too.
        image_token: the text that stands for an image in a question.
        turns, content, role: the keys of the list of turns, and of the text and the role of a turn.
        system: the keys of a system text outside the turns.
        human_roles, assistant_roles, system_roles: the role names of each kind of turn.
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
        """The names of a record's unused top-level keys. `id` counts as used, since `rejects.jsonl` shows it.

        Raises:
            Rejected: UNSUPPORTED_MEDIA, if an unused key holds media; one that is null or empty is only counted.
        """
        keys = tuple(record)
        found = self._known.get(keys)
        if found is None:
            found = self._split(keys)
            if sum(map(len, keys)) <= _LONGEST_KNOWN:
                if len(self._known) == _MAX_KNOWN:
                    self._known.clear()
                self._known[keys] = found
        for name in found.media:
            value = record[name]
            if any(value) if type(value) is list else value:
                found_there = shorten(value) if type(value) is str else json_type(value)
                raise Rejected(
                    Reason.UNSUPPORTED_MEDIA,
                    f"{name!r} is {found_there}, but only text and the images under {self.image!r} are supported",
                )
        return found.names

    def unused_in_turns(self, turns: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
        """The names of the unused keys of turns, such as `conversations[].weight`."""
        names = {name: None for turn in turns for name in turn if name not in (self.role, self.content)}
        return _bounded([f"{self.turns}[].{name}" for name in names])

    @cached_property
    def _known(self) -> dict[tuple[str, ...], _Unused]:
        """Cache by set of keys, since most records of a file have the same keys."""
        return {}

    def _split(self, keys: tuple[str, ...]) -> _Unused:
        unused = [name for name in keys if name not in ("id", self.image, IMAGES, self.turns, *self.system)]
        return _Unused(media=tuple(name for name in unused if name in MEDIA_KEYS), names=_bounded(unused))


def _bounded(names: list[str]) -> tuple[str, ...]:
    """A bounded number of names of bounded length; further names become `OTHER_KEYS`."""
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…" for name in names[:_MAX_NAMES]]
    return (*shown, *[OTHER_KEYS] * (len(names) > _MAX_NAMES))


class UnusedKeys:
    """Number of records per unused key, for a bounded number of names: the first ones seen."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, names: Iterable[tuple[str, ...]]) -> None:
        """Count the results of `RecordKeys.unused` for some records, in order."""
        for some, records in Counter(names).items():
            self.update(dict.fromkeys(some, records))

    def update(self, counts: Mapping[str, int]) -> None:
        """Add other counts."""
        for name, records in counts.items():
            is_kept = name in self.counts or len(self.counts) < _MAX_NAMES
            self.counts[name if is_kept else OTHER_KEYS] += records

    def ranked(self) -> dict[str, int]:
        """The counts, the most frequent name first."""
        return dict(sorted(self.counts.items(), key=lambda item: (-item[1], item[0])))
