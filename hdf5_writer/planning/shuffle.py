"""A pseudo-random permutation of 0 … n-1 that is computed on demand and never stored.

A Feistel network over the next power of four is a bijection for any round function; values outside the range are
encrypted again until they fall inside (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
CT-RSA 2002). Computing a slice takes time and memory proportional to its length. The result depends only on (n, seed),
not on the machine, the number of processes or the version of a random number library.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from preprocess.splitmix64 import mixed

_ROUNDS = 8


def permuted(start: int, stop: int, n: int, seed: int) -> npt.NDArray[np.int64]:
    """Return elements `start` … `stop`-1 of the permutation of range(n) for `seed`.

    Args:
        start, stop: 0 <= start <= stop <= n.
        n: size of the range, below 2**62.
        seed: 0 <= seed < 2**63.

    Returns:
        shape (stop - start,), int64.
    """
    half = np.uint64(max(1, ((max(n, 2) - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = _round_keys(seed)
    values = _encrypt(np.arange(start, stop, dtype=np.uint64), keys, half, mask)
    outside = np.flatnonzero(values >= np.uint64(n))
    while outside.size:
        walked = _encrypt(values[outside], keys, half, mask)
        values[outside] = walked
        outside = outside[walked >= np.uint64(n)]
    return values.astype(np.int64)


def derived_seed(seed: int, *numbers: int) -> int:
    """Derive an independent seed, 0 <= result < 2**63, from `seed` and some numbers."""
    text = " ".join(map(str, (seed, *numbers)))
    return int.from_bytes(hashlib.shake_256(b"llava-hdf5 part " + text.encode()).digest(8), "little") >> 1


def _round_keys(seed: int) -> list[np.uint64]:
    stream = hashlib.shake_256(b"llava-hdf5 shuffle" + seed.to_bytes(8, "little")).digest(8 * _ROUNDS)
    return [np.uint64(int.from_bytes(stream[8 * i : 8 * i + 8], "little")) for i in range(_ROUNDS)]


def _encrypt(
    values: npt.NDArray[np.uint64], keys: list[np.uint64], half: np.uint64, mask: np.uint64
) -> npt.NDArray[np.uint64]:
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (mixed(right + key) & mask)
    return (left << half) | right
