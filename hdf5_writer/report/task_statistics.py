"""What a task notes for the report while its samples pass by: counts, fingerprints and where the time went.

It goes into the receipt under `report`; `data_params.json` takes the number of duplicates of it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import time
from collections import Counter, defaultdict
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from hdf5_writer.row_stream import Samples

# Fingerprints kept over all tasks: of more records, only those whose checksum is divisible by a number, so that all
# samples of the same content are kept or left out together, and counts of duplicates stay unbiased.
_MOST_FINGERPRINTS = 1_000_000
FINGERPRINT = np.dtype([("hash", "<u8"), ("sample", "<i4")])


def fingerprints_every(records: int) -> int:
    """One of how many fingerprints is kept for a dataset of so many records."""
    return -(-records // _MOST_FINGERPRINTS) or 1


class TaskStatistics:
    """The notes of one task."""

    def __init__(self, every: int) -> None:
        """`every`: keep the fingerprints of contents whose checksum this number divides."""
        self._every = every
        self._samples = 0
        self._supervised: Counter[int] = Counter()
        self._rounds: Counter[int] = Counter()
        self._hashes: list[bytes] = []
        self._hashed: list[int] = []
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._began = time.time()
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on a stage."""
        now = perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now

    def add(self, samples: Samples) -> None:
        """Note samples, in the order in which they stand in the shard."""
        batch, measures = samples.batch, samples.measures
        ids = batch.ids.tobytes()
        begins = (batch.begins * batch.ids.itemsize).tolist()
        # Where an image stands matters too; a path has no NUL.
        places = zip(samples.image_paths, batch.image_at.tolist(), strict=True)
        images = [f"{path}\0{place}\0".encode() for path, place in places]
        image_begins = batch.image_begins.tolist()
        for sample in range(batch.records):
            content = ids[begins[sample] : begins[sample + 1]]
            content += b"".join(images[image_begins[sample] : image_begins[sample + 1]])
            # Thinned by a checksum, which costs a tenth of the digest.
            if self._every == 1 or isal_zlib.crc32(content) % self._every == 0:
                self._hashes.append(hashlib.sha1(content, usedforsecurity=False).digest()[:8])
                self._hashed.append(self._samples)
            self._samples += 1
        self._supervised.update(measures.supervised.tolist())
        self._rounds.update(measures.rounds.tolist())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: histograms as [value, samples], fingerprints as base64 of `FINGERPRINT` records."""
        table = np.empty(len(self._hashes), dtype=FINGERPRINT)
        table["hash"], table["sample"] = np.frombuffer(b"".join(self._hashes), dtype="<u8"), self._hashed
        return {
            "worker": f"{platform.node()}:{os.getpid()}",
            "began": round(self._began, 3),
            "stages": {stage: round(seconds, 4) for stage, seconds in self._seconds.items()},
            "supervised": sorted(self._supervised.items()),
            "rounds": sorted(self._rounds.items()),
            "fingerprints_every": self._every,
            "fingerprints": base64.b64encode(table.tobytes()).decode(),
        }


def read_fingerprints(facts: dict[str, Any]) -> npt.NDArray[np.void]:
    """The fingerprints of `TaskStatistics.to_json`: shape (n,), dtype `FINGERPRINT`."""
    return np.frombuffer(base64.b64decode(facts["fingerprints"]), dtype=FINGERPRINT)
