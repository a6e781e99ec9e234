"""Histograms of the used positions, samples and images of rows, over all shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hdf5_writer.report.lengths import quantiles

_Counts = npt.NDArray[np.int64]


class RowTally:
    """Three histograms; element i counts rows with i used positions, samples or images."""

    def __init__(self) -> None:
        self.used = self.samples = self.images = np.zeros(1, dtype=np.int64)

    def add(self, tables: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add the rows of a shard, given its tables (`hdf5_writer.tables.read_tables`)."""
        offsets = tables["samples/offsets"]
        ends = np.append(0, np.cumsum(tables["samples/length"], dtype=np.int64))
        self.used = _added(self.used, np.diff(ends[offsets]))
        self.samples = _added(self.samples, np.diff(offsets))
        self.images = _added(self.images, np.diff(tables["images/offsets"]))

    def summaries(self, shares: tuple[float, ...]) -> list[tuple[str, list[int]]]:
        """Return (name of the quantity, its quantiles at the given shares)."""
        counted = (("used positions", self.used), ("samples", self.samples), ("images", self.images))
        return [(what, quantiles(histogram, shares)) for what, histogram in counted]


def _added(histogram: _Counts, values: npt.NDArray[Any]) -> _Counts:
    counts = np.bincount(values, minlength=len(histogram)).astype(np.int64)
    counts[: len(histogram)] += histogram
    return counts
