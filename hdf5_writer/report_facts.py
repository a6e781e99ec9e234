"""What a task notes for the report while its rows pass by: counts, fingerprints and where the time went.

It goes into the receipt under `report`; `data_params.json` takes nothing of it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from preprocess.features import RowLayout
from preprocess.tokens import TokenSequence

# Fingerprints kept over all tasks: of more records, only those whose fingerprint is divisible by a number, so that
# all rows of the same content are kept or left out together, and counts of duplicates stay unbiased.
_MOST_FINGERPRINTS = 1_000_000
FINGERPRINT = np.dtype([("hash", "<u8"), ("row", "<i4")])


def fingerprints_every(records: int) -> int:
    """One of how many fingerprints is kept for a dataset of so many records."""
    return -(-records // _MOST_FINGERPRINTS) or 1


class TaskFacts:
    """The notes of one task."""

    def __init__(self, layout: RowLayout, every: int) -> None:
        """`every`: keep the fingerprints that this number divides."""
        self._most_text = layout.max_sequence_length - layout.num_patches
        self._every = every
        self._rows = 0
        self._supervised, self._rounds = Counter[int](), Counter[int]()
        self._hashes: list[int] = []
        self._hashed_rows: list[int] = []
        self._seconds: dict[str, float] = {}
        self._began = time.time()
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on a stage."""
        now = time.perf_counter()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def add(self, sequence: TokenSequence, image_path: str | None) -> None:
        """Note a record that became a row."""
        ids, spans, _ = sequence
        last = min(len(ids) - 1, self._most_text)  # the last label that the row keeps
        supervised = rounds = 0
        for start, end in spans:
            if start > last:
                break
            supervised += min(end, last + 1) - start
            rounds += 1
        self._supervised[supervised] += 1
        self._rounds[rounds] += 1
        content = ids[: last + 1].tobytes() + (image_path or "").encode()
        fingerprint = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
        if fingerprint % self._every == 0:
            self._hashes.append(fingerprint)
            self._hashed_rows.append(self._rows)
        self._rows += 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: histograms as [value, rows], fingerprints as base64 of `FINGERPRINT` records."""
        table = np.empty(len(self._hashes), dtype=FINGERPRINT)
        table["hash"], table["row"] = self._hashes, self._hashed_rows
        return {
            "worker": os.getpid(),
            "began": round(self._began, 3),
            "stages": {stage: round(seconds, 4) for stage, seconds in self._seconds.items()},
            "supervised": sorted(self._supervised.items()),
            "rounds": sorted(self._rounds.items()),
            "fingerprints_every": self._every,
            "fingerprints": base64.b64encode(table.tobytes()).decode(),
        }


def read_fingerprints(facts: dict[str, Any]) -> npt.NDArray[np.void]:
    """The fingerprints of `TaskFacts.to_json`: shape (n,), dtype `FINGERPRINT`."""
    return np.frombuffer(base64.b64decode(facts["fingerprints"]), dtype=FINGERPRINT)
