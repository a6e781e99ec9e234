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
    """One file: records read are rows and rejects; `text_tokens` are those of its rows."""

    path: str
    rows: int
    text_tokens: int
    rejected: int

    @property
    def records(self) -> int:
        """Records read."""
        return self.rows + self.rejected


class InputTally:
    """Counts by file, over all shards; memory holds three numbers a file."""

    def __init__(self, paths: list[str], num_patches: int) -> None:
        """`paths`: the inputs, as `source_file` counts them."""
        self._paths, self._num_patches = paths, num_patches
        self._rows = np.zeros(len(paths), dtype=np.int64)
        self._tokens = np.zeros(len(paths), dtype=np.int64)
        self._rejected = Counter[str]()

    def add(
        self,
        source_file: npt.NDArray[np.int32],
        modality_lengths: npt.NDArray[np.int32],
        rejects: Iterable[dict[str, Any]],
    ) -> None:
        """Count the rows of a shard, and the rejects of its receipt."""
        lengths = modality_lengths.astype(np.int64)
        np.add.at(self._rows, source_file, 1)
        np.add.at(self._tokens, source_file, np.where(lengths > 0, lengths - self._num_patches, -lengths))
        self._rejected.update(reject["file"] for reject in rejects)

    def files(self) -> list[InputSummary]:
        """All files, those with the most rejects first, then in the order of the inputs."""
        found = [
            InputSummary(path, rows, tokens, self._rejected[path])
            for path, rows, tokens in zip(self._paths, self._rows.tolist(), self._tokens.tolist(), strict=True)
        ]
        return sorted(found, key=lambda file: -file.rejected)
