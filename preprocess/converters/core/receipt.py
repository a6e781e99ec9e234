"""The receipt of a finished output: its inputs, arguments and counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from preprocess.converters.core.reasons import SourceReason

FORMAT = 1


@dataclass(frozen=True)
class Counts:
    """Counts of one output; `read` is `written` plus the sum of `rejected`, which is by reason."""

    read: int = 0
    written: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    images: int = 0
    # Turns of written records that were dropped because of --min_rating.
    turns_left_out: int = 0

    @property
    def all_files_complete(self) -> bool:
        """Whether every input could be read to its end."""
        return SourceReason.UNREADABLE_FILE.value not in self.rejected

    def __add__(self, other: Counts) -> Counts:
        reasons = sorted({*self.rejected, *other.rejected})
        rejected = {reason: self.rejected.get(reason, 0) + other.rejected.get(reason, 0) for reason in reasons}
        return Counts(
            self.read + other.read,
            self.written + other.written,
            rejected,
            self.images + other.images,
            self.turns_left_out + other.turns_left_out,
        )


@dataclass(frozen=True)
class Origin:
    """The origin of an output: the settings, and every input by its path, size and modification time.

    The time detects a changed file of the same length without reading it again.
    """

    settings: Mapping[str, str | int]
    inputs: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, settings: Mapping[str, str | int], inputs: Sequence[Path], root: Path) -> Origin:
        """The origin for the current state of the inputs; their paths are stored relative to `root`."""
        stats = [(path.relative_to(root).as_posix(), path.stat()) for path in inputs]
        return cls(dict(settings), {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats})

    def difference(self, now: Origin) -> str | None:
        """A description of the first difference; None if there is none."""
        for name in sorted({*self.settings, *now.settings}):
            before, after = self.settings.get(name), now.settings.get(name)
            if before != after:
                return f"{name} was {before!r} and is {after!r} now"
        for name in sorted({*self.inputs, *now.inputs}):
            if name not in now.inputs:
                return f"{name} is no longer an input"
            if name not in self.inputs:
                return f"{name} is a new input"
            (size, changed), (new_size, new_changed) = self.inputs[name], now.inputs[name]
            if size != new_size:
                return f"{name} had {size:,} bytes and has {new_size:,} now"
            if changed != new_changed:
                return f"{name} has been changed or copied since"
        return None


@dataclass(frozen=True)
class Receipt:
    """Written before the output is renamed into place, so that an output with a receipt is complete."""

    origin: Origin
    counts: Counts
    # In bytes. Without rejects there is no such file.
    output_size: int
    rejects_size: int

    def to_bytes(self) -> bytes:
        """The receipt as indented JSON."""
        document = {
            "format": FORMAT,
            "settings": dict(self.origin.settings),
            "counts": {
                "read": self.counts.read,
                "written": self.counts.written,
                "rejected": dict(self.counts.rejected),
                "images": self.counts.images,
                "turns_left_out": self.counts.turns_left_out,
            },
            "output_size": self.output_size,
            "rejects_size": self.rejects_size,
            "inputs": {name: list(stat) for name, stat in self.origin.inputs.items()},
        }
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def read(cls, path: Path) -> Receipt | None:
        """The receipt at `path`; None if it does not exist or this version cannot read it."""
        try:
            document: dict[str, Any] = orjson.loads(path.read_bytes())
            if document["format"] != FORMAT:
                return None
            inputs = {name: (size, changed) for name, (size, changed) in document["inputs"].items()}
            origin = Origin(document["settings"], inputs)
            return cls(origin, Counts(**document["counts"]), document["output_size"], document["rejects_size"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
