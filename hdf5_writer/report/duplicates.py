"""Find samples with the same images and the same text, using the fingerprints in the receipts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_MAX_GROUPS = 5
_MAX_PLACES = 3


@dataclass(frozen=True)
class DuplicateGroup:
    """Samples with the same content: their number, and (task, sample number in the shard) of the first ones."""

    samples: int
    places: list[tuple[int, int]]


@dataclass(frozen=True)
class Duplicates:
    """Result of `find_duplicates`.

    Attributes:
        every: one in `every` contents was examined; the counts below are estimates scaled by it.
        surplus: number of samples to remove so that each content occurs once.
        contents: number of contents that occur more than once.
        largest: the largest groups.
    """

    every: int
    surplus: int
    contents: int
    largest: list[DuplicateGroup]


def find_duplicates(fingerprints: Sequence[npt.NDArray[np.void]], every: int) -> Duplicates:
    """Group equal fingerprints.

    Args:
        fingerprints: for each task, an array of dtype `task_statistics.FINGERPRINT`.
        every: one in `every` fingerprints was kept.
    """
    hashes = np.concatenate([found["hash"] for found in fingerprints]) if fingerprints else np.empty(0, dtype="<u8")
    hashes.sort()  # in place, and no other array of this size: a million take 8 MB
    starts_run = np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]
    starts_run[:-1] &= ~starts_run[1:]  # a value that occurs once starts no run
    starts_run[-1:] = False
    values = hashes[starts_run]
    counts = np.searchsorted(hashes, values, side="right") - np.flatnonzero(starts_run)
    groups = np.lexsort((_first_seen(values, fingerprints), -counts))[:_MAX_GROUPS].tolist()
    return Duplicates(
        every=every,
        surplus=int((counts - 1).sum()) * every,
        contents=len(values) * every,
        largest=[DuplicateGroup(int(counts[group]), _places(values[group], fingerprints)) for group in groups],
    )


def _first_seen(values: npt.NDArray[np.uint64], fingerprints: Sequence[npt.NDArray[np.void]]) -> npt.NDArray[np.int64]:
    """Return the index of the first occurrence, over all tasks, of each of the sorted fingerprints `values`."""
    first = np.full(len(values), np.iinfo(np.int64).max)
    offset = 0
    for found in fingerprints if len(values) else ():
        nearest = np.minimum(np.searchsorted(values, found["hash"]), len(values) - 1)
        seen = np.flatnonzero(values[nearest] == found["hash"])
        np.minimum.at(first, nearest[seen], offset + seen)
        offset += len(found)
    return first


def _places(value: np.uint64, fingerprints: Sequence[npt.NDArray[np.void]]) -> list[tuple[int, int]]:
    """Return (task, sample number in the shard) of the first samples with a fingerprint."""
    places: list[tuple[int, int]] = []
    for task, found in enumerate(fingerprints):
        places += [(task, sample) for sample in found["sample"][found["hash"] == value].tolist()]
        if len(places) >= _MAX_PLACES:
            break
    return places[:_MAX_PLACES]
