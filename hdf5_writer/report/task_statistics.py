"""Statistics that a task collects for the report: counts, fingerprints of samples, and seconds per stage.

They are stored in the receipt under `report`; the number of duplicates in `data_params.json` is computed from them.
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

# Maximum number of fingerprints over all tasks. For more records, only fingerprints whose checksum is divisible by a
# number are kept: samples of equal content are kept or dropped together, so estimates of duplicates are unbiased.
_MAX_FINGERPRINTS = 1_000_000
FINGERPRINT = np.dtype([("hash", "<u8"), ("sample", "<i4")])


def fingerprints_every(records: int) -> int:
    """Return n such that one in n fingerprints is kept for the given number of records."""
    return -(-records // _MAX_FINGERPRINTS) or 1


class TaskStatistics:
    """Statistics of one task."""

    def __init__(self, every: int) -> None:
        """`every`: keep fingerprints of contents whose checksum is divisible by it."""
        self._every = every
        self._samples = 0
        self._supervised: Counter[int] = Counter()
        self._rounds: Counter[int] = Counter()
        self._hashes: list[bytes] = []
        self._hashed: list[int] = []
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._began = time.time()
        self._last = perf_counter()

    def end_stage(self, stage: str) -> None:
        """Add the time since the last call to a stage."""
        now = perf_counter()
        self._seconds[stage] += now - self._last
        self._last = now

    def add(self, samples: Samples) -> None:
        """Add samples, in shard order."""
        batch, measures = samples.batch, samples.measures
        ids = batch.ids.tobytes()
        offsets = (batch.offsets * batch.ids.itemsize).tolist()
        # The place of an image is part of the content; NUL is a safe separator, since paths have none.
        places = zip(samples.image_paths, batch.image_at.tolist(), strict=True)
        images = [f"{path}\0{place}\0".encode() for path, place in places]
        image_offsets = batch.image_offsets.tolist()
        for sample in range(batch.records):
            content = ids[offsets[sample] : offsets[sample + 1]]
            content += b"".join(images[image_offsets[sample] : image_offsets[sample + 1]])
            # A CRC-32 decides first, since it costs a tenth of the digest.
            if self._every == 1 or isal_zlib.crc32(content) % self._every == 0:
                self._hashes.append(hashlib.sha1(content, usedforsecurity=False).digest()[:8])
                self._hashed.append(self._samples)
            self._samples += 1
        self._supervised.update(measures.supervised.tolist())
        self._rounds.update(measures.rounds.tolist())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON: histograms as [value, samples], fingerprints as base64 of `FINGERPRINT` records."""
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
    """Decode the fingerprints of `TaskStatistics.to_json`: (n,) of dtype `FINGERPRINT`."""
    return np.frombuffer(base64.b64decode(facts["fingerprints"]), dtype=FINGERPRINT)
