"""Find the ends of the elements of a JSON array in blocks of bytes with NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_QUOTE, _COMMA, _BACKSLASH = 0x22, 0x2C, 0x5C
_DEPTH = np.zeros(256, np.int8)
_DEPTH[list(b"[{")] = 1
_DEPTH[list(b"]}")] = -1


def element_ends(text: bytes) -> tuple[list[int], int]:
    """Find the ends of complete elements.

    Args:
        text: bytes that begin right after an opening bracket, or after one of its commas.

    Returns:
        The positions of the commas between elements, and the position of the bracket that closes the container, or -1
        if `text` does not contain it. Text after that bracket is ignored. Only quotes and brackets are counted; the
        caller must parse the elements to validate them.
    """
    codes = np.frombuffer(text, np.uint8)
    # With bit 5 set, the six codes [ \ ] { | } become three adjacent ones: one comparison instead of five.
    marked = ((codes | 0x20) - 0x7B) <= 2
    marked |= codes == _QUOTE
    marked |= codes == _COMMA
    places = np.flatnonzero(marked)
    code = codes[places]
    quotes = code == _QUOTE
    quotes[_escaped(places, code)] = False
    outside = ~np.bitwise_xor.accumulate(quotes)
    depth = np.cumsum(_DEPTH[code] * outside, dtype=np.int32)
    closing = np.flatnonzero(depth < 0)
    if len(closing):
        last = int(closing[0])
        code, outside, depth = code[:last], outside[:last], depth[:last]
    commas = places[: len(code)][(code == _COMMA) & outside & (depth == 0)]
    return commas.tolist(), int(places[closing[0]]) if len(closing) else -1


def _escaped(places: NDArray[np.intp], code: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Indices into `places` of the characters right after a backslash that is not itself escaped."""
    slashes = np.flatnonzero(code == _BACKSLASH)
    if not len(slashes):
        return slashes
    starts_run = np.ones(len(slashes), bool)
    starts_run[1:] = np.diff(places[slashes]) != 1
    numbers = np.arange(len(slashes))
    run_start = np.maximum.accumulate(np.where(starts_run, numbers, 0))
    # In a run of backslashes every second one is escaped by the one before it.
    active = slashes[(numbers - run_start) % 2 == 0]
    active = active[active + 1 < len(places)]
    after = active + 1
    follows: NDArray[np.intp] = after[places[after] == places[active] + 1]
    return follows
