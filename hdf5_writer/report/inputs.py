"""What became of each input file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class InputSummary:
    """One file: records read are samples and rejects; `text_tokens` are those of its samples."""

    path: str
    samples: int
    text_tokens: int
    rejected: int

    @property
    def records(self) -> int:
        """Records read."""
        return self.samples + self.rejected


class InputTally:
    """Counts by file, over all shards; memory holds three numbers a file."""

    def __init__(self, paths: list[str]) -> None:
        """`paths`: the inputs, as `source_file` counts them."""
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
        """All files, those with the most rejects first, then in the order of the inputs."""
        found = [
            InputSummary(path, samples, tokens, self._rejected[path])
            for path, samples, tokens in zip(self._paths, self._samples.tolist(), self._tokens.tolist(), strict=True)
        ]
        return sorted(found, key=lambda file: -file.rejected)
