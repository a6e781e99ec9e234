"""Rescale and normalise uint8 pixels for CLIP, bit-identical to `CLIPImageProcessor`.

The reference is the implementation on Pillow and numpy, which the LLaVA authors use; that of transformers 5 with
torchvision differs in the last bit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from preprocess.square_images import CLIP_MEAN

# OPENAI_CLIP_STD of transformers.image_utils.
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_STEP = 1 / (255 * np.array(CLIP_STD))
_ZERO = -np.array(CLIP_MEAN) / np.array(CLIP_STD)


class Normaliser:
    """Computes the values directly in the output tensor, which is faster than a lookup table (docs/images.md)."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Set up.

        Args:
            dtype: float16, bfloat16 or float32. Computed in float32 and rounded once at the end.

        Raises:
            ValueError: the dtype is not supported.
        """
        if dtype not in _DTYPES:
            raise ValueError(f"image_dtype is {dtype}, expected torch.float16, torch.bfloat16 or torch.float32")
        self.dtype = dtype
        self._mean, self._std = (torch.tensor(of).reshape(3, 1, 1) for of in (CLIP_MEAN, CLIP_STD))
        # Bytes are converted to int16 by vector instructions, but to float16 one by one. The bits of an int16 from 0 to
        # 255 are those of a float16 that is 2^24 times smaller.
        self._bits, unit = (torch.int16, 2.0**24) if dtype == torch.float16 else (dtype, 1.0)
        self._step = torch.tensor(_STEP * unit, dtype=torch.float32)
        self._zero = torch.tensor(_ZERO, dtype=torch.float32)
        self._zeros, self._ones, self._unused = torch.zeros(3), torch.ones(3), torch.empty(0)

    def __call__(self, pixels: npt.NDArray[np.uint8], out: torch.Tensor) -> None:
        """Write the values of pixels, (3, height, width) uint8, into a contiguous tensor of the same shape.

        Raises:
            ValueError: the tensor has another shape or dtype, or is not contiguous.
        """
        if pixels.shape != tuple(out.shape) or out.dtype != self.dtype or not out.is_contiguous():
            raise ValueError(
                f"out is {out.dtype}, {tuple(out.shape)}, expected contiguous {self.dtype} of {pixels.shape}"
            )
        out.view(self._bits).copy_(torch.from_numpy(pixels))
        if self.dtype == torch.float32:
            out.div_(255).sub_(self._mean).div_(self._std)
            return
        # One multiplication and one addition in float32, in one pass. For every byte, the result rounds to the same
        # float16 and bfloat16 as that of the three steps above, whether the two operations are fused or not.
        images, unused = out[None], self._unused
        torch.native_batch_norm(
            images, self._step, self._zero, self._zeros, self._ones, False, 0.0, 0.0, out=(images, unused, unused)
        )
