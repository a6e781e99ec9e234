"""Bytes of pixels → what CLIP takes, equal bit for bit to the rescaling and normalising of `CLIPImageProcessor`.

Of the one on Pillow and numpy, as the LLaVA authors use it; that of transformers 5 with torchvision differs in the last
bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from preprocess.square_images import CLIP_MEAN

# OPENAI_CLIP_STD of transformers.image_utils.
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Of a value, and of two of them, as numpy moves them around: it knows no bfloat16.
_BITS: dict[torch.dtype, tuple[torch.dtype, type[np.unsignedinteger[Any]]]] = {
    torch.float16: (torch.int16, np.uint32),
    torch.bfloat16: (torch.int16, np.uint32),
    torch.float32: (torch.int32, np.uint64),
}
_PAIRS = np.arange(1 << 16)


class Normaliser:
    """Looks up two bytes at a time: in each channel a table of all 65,536 pairs of them, which a cache holds.

    Faster here than byte by byte, than torch's indexing, and than the arithmetic itself (docs/images.md).
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """Make the tables: 0.8 MB, or 1.6 MB for float32.

        Args:
            dtype: float16, bfloat16 or float32. The arithmetic is that of float32, rounded once at the end.

        Raises:
            ValueError: another dtype.
        """
        if dtype not in _BITS:
            raise ValueError(f"image_dtype is {dtype}, expected torch.float16, torch.bfloat16 or torch.float32")
        self.dtype = dtype
        self._bits, self._two = _BITS[dtype]
        self._ones: npt.NDArray[Any] = torch.from_numpy(_normalised_values()).to(dtype).view(self._bits).numpy()
        first, second = self._ones[:, _PAIRS & 0xFF], self._ones[:, _PAIRS >> 8]
        self._pairs = np.stack([first, second], axis=-1).view(self._two)[..., 0]

    def __call__(self, pixels: npt.NDArray[np.uint8], out: torch.Tensor) -> None:
        """Write the values of pixels (3, height, width), both contiguous, into a tensor of the same shape.

        Raises:
            ValueError: another shape or dtype, or not contiguous.
        """
        if pixels.shape != tuple(out.shape) or out.dtype != self.dtype or not out.is_contiguous():
            raise ValueError(
                f"out is {out.dtype}, {tuple(out.shape)}, expected contiguous {self.dtype} of {pixels.shape}"
            )
        flat, values = pixels.reshape(3, -1), out.view(self._bits).numpy().reshape(3, -1)
        even = flat.shape[1] & ~1
        for channel in range(3):
            # Every index is in the table: "clip" only spares numpy the checked copy that "raise" makes.
            pairs, target = flat[channel, :even].view("<u2"), values[channel, :even].view(self._two)
            np.take(self._pairs[channel], pairs, out=target, mode="clip")
            values[channel, even:] = self._ones[channel][flat[channel, even:]]


def _normalised_values() -> npt.NDArray[np.float32]:
    """What each byte becomes in each channel, (3, 256), in the dtypes and order of transformers.

    `rescale` multiplies in float64 and rounds to float32; `normalize` subtracts and divides in float32.
    """
    rescaled = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean, std = np.array(CLIP_MEAN, dtype=np.float32), np.array(CLIP_STD, dtype=np.float32)
    values: npt.NDArray[np.float32] = (rescaled - mean[:, None]) / std[:, None]
    return values
