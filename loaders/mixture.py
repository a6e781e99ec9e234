"""Mix several datasets by weight; the source of each position is computed, so that any position can be resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from loaders.row_order import RowOrder, Rows

_BITS = 24


class MixtureOrder:
    """Interleaves orders by weight.

    After any number of rows, each source has contributed its share, to within one row per source. A source that runs
    out starts its next pass in a new order; a source with a small weight continues in the next epoch where it stopped.
    An epoch has as many rows as all sources together.

    The sources are split off one after the other: of the first n remaining rows, a source gets floor(n * share + 1/2),
    with the share as a multiple of 2**-24. Counts at any position can therefore be computed directly.
    """

    def __init__(self, orders: Sequence[RowOrder], weights: Sequence[float]) -> None:
        """`weights`: one positive number per order; only their ratios count.

        Raises:
            ValueError: a weight is not positive, or too small compared with the others to be represented.
        """
        self._orders = list(orders)
        self.rows = sum(order.rows for order in orders)
        for weight in weights:
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"mixture has the weight {weight}, expected a positive number; or leave it out")
        self._shares = []
        for number, weight in enumerate(weights[:-1]):
            share = round((1 << _BITS) * weight / math.fsum(weights[number:]))
            if not 0 < share < 1 << _BITS:
                raise ValueError(
                    f"mixture has the weights {list(weights)}, too far apart: the smallest would never be drawn; "
                    "leave it out or raise it"
                )
            self._shares.append(share)

    def take(self, epoch: int, start: int, stop: int) -> Rows:
        """See `RowOrder.take`."""
        rows = np.empty(stop - start, dtype=np.int64)
        left = np.arange(stop - start)  # positions not assigned to a source yet
        first = epoch * self.rows + start
        count = stop - start
        for number, order in enumerate(self._orders):
            if number < len(self._shares):
                share = self._shares[number]
                taken = _counts(np.arange(first, first + count + 1), share)
                mine = taken[1:] > taken[:-1]
                begin, drawn = int(taken[0]), int(taken[-1] - taken[0])
            else:
                mine = np.ones(count, dtype=bool)
                begin, drawn = first, count
            rows[left[mine]] = _stream(order, begin, begin + drawn)
            left = left[~mine]
            first, count = first - begin, count - drawn
        return rows


def _counts(n: Rows, share: int) -> Rows:
    """Return floor(n * share / 2**24 + 1/2) without overflow."""
    high, low = n >> _BITS, n & ((1 << _BITS) - 1)
    counts: Rows = high * share + ((low * share + (1 << (_BITS - 1))) >> _BITS)
    return counts


def _stream(order: RowOrder, start: int, stop: int) -> Rows:
    """Return elements of consecutive epochs of an order."""
    parts = [np.zeros(0, dtype=np.int64)]
    while start < stop:
        number, offset = divmod(start, order.rows)
        end = min(order.rows, offset + stop - start)
        parts.append(order.take(number, offset, end))
        start += end - offset
    return np.concatenate(parts)


def folders_and_weights(mixture: Sequence[tuple[str | Path, float]]) -> tuple[list[str | Path], list[float]]:
    """Separate the folders of a mixture from their weights.

    Raises:
        ValueError: an entry is not a folder and a number.
    """
    if isinstance(mixture, Mapping):
        raise ValueError("mixture is a mapping, expected [(folder, weight), …]; give list(mixture.items())")
    for entry in mixture:
        pair = tuple(entry) if isinstance(entry, (tuple, list)) else ()
        if len(pair) != 2 or not (isinstance(pair[0], (str, Path)) and isinstance(pair[1], (int, float))):
            raise ValueError(f"mixture has the entry {entry!r}, expected (folder, weight)")
    return [folder for folder, _ in mixture], [weight for _, weight in mixture]
