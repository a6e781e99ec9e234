"""Rows with the same image and the same text, found by the fingerprints in the receipts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_MOST_GROUPS = 5
_MOST_PLACES = 3


@dataclass(frozen=True)
class DuplicateGroup:
    """Rows of one content: how many, and (task, row in its shard) of the first ones."""

    rows: int
    places: list[tuple[int, int]]


@dataclass(frozen=True)
class Duplicates:
    """What was found.

    Attributes:
        every: one of so many contents was looked at; the counts below are multiplied by it.
        surplus: rows that could be left out so that each content stands once.
        contents: contents that stand more than once.
        largest: the largest groups.
    """

    every: int
    surplus: int
    contents: int
    largest: list[DuplicateGroup]


def find_duplicates(fingerprints: Sequence[npt.NDArray[np.void]], every: int) -> Duplicates:
    """Group equal fingerprints.

    Args:
        fingerprints: those of each task, `report_facts.FINGERPRINT`.
        every: one of how many was kept.
    """
    tasks = np.repeat(np.arange(len(fingerprints), dtype=np.int32), [len(found) for found in fingerprints])
    hashes = np.concatenate([found["hash"] for found in fingerprints]) if fingerprints else np.empty(0, dtype="<u8")
    rows = np.concatenate([found["row"] for found in fingerprints]) if fingerprints else np.empty(0, dtype="<i4")
    order = np.argsort(hashes, kind="stable")  # stable: places of a group stay in the order of the shards
    _, starts, counts = np.unique(hashes[order], return_index=True, return_counts=True)
    repeated = counts > 1
    groups = sorted(
        ((int(count), int(start)) for count, start in zip(counts[repeated], starts[repeated], strict=True)),
        key=lambda group: (-group[0], int(order[group[1]])),
    )[:_MOST_GROUPS]
    largest = [
        DuplicateGroup(count, [(int(tasks[i]), int(rows[i])) for i in order[start : start + min(count, _MOST_PLACES)]])
        for count, start in groups
    ]
    return Duplicates(
        every=every,
        surplus=int((counts[repeated] - 1).sum()) * every,
        contents=int(repeated.sum()) * every,
        largest=largest,
    )
