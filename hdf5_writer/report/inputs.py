"""Numbers of samples, text tokens and rejects of each input file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class InputSummary:
    """Numbers of samples, text tokens and rejected records of one input file."""

    path: str
    samples: int
    text_tokens: int
    rejected: int

    @property
    def records(self) -> int:
        """Number of records read."""
        return self.samples + self.rejected


class InputTally:
    """Counts by file over all shards; takes three numbers per file."""

    def __init__(self, paths: list[str]) -> None:
        """`paths`: the inputs, in the order of `source_file`."""
        self._paths = paths
        self._samples = np.zeros(len(paths), dtype=np.int64)
        self._tokens = np.zeros(len(paths), dtype=np.int64)
        self._rejected = Counter[str]()

    def add(
        self,
        source_file: npt.NDArray[np.int32],
        text_tokens: npt.NDArray[np.int64],
        rejects: Iterable[dict[str, Any]],
    ) -> None:
        """Count the samples of a shard, and the rejects of its receipt."""
        np.add.at(self._samples, source_file, 1)
        np.add.at(self._tokens, source_file, text_tokens)
        self._rejected.update(reject["file"] for reject in rejects)

    def files(self) -> list[InputSummary]:
        """Return all files, sorted by descending number of rejects, then in input order."""
        found = [
            InputSummary(path, samples, tokens, self._rejected[path])
            for path, samples, tokens in zip(self._paths, self._samples.tolist(), self._tokens.tolist(), strict=True)
        ]
        return sorted(found, key=lambda file: -file.rejected)
