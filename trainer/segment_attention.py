"""Restrict attention to the samples of packed rows, for each attention implementation of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# PyTorch attention per sample without a mask: time and memory depend on the samples' lengths only; works on any device.
BY_SAMPLE = "sdpa_by_sample"


def segment_attention(implementation: str, segment_ids: Tensor, key_padding_mask: Tensor, dtype: torch.dtype) -> Any:
    """Return keyword arguments for a text model's forward that restrict attention to the same sample.

    transformers detects packed rows from `position_ids` only in a batch of one row without a mask, so the samples are
    passed explicitly. For variable-length attention, the batch must be flattened to one row, see `is_flattened`.

    Args:
        implementation: "sdpa", "eager", `BY_SAMPLE`, or a FlashAttention implementation.
        segment_ids: (B, T) integers: 1, 2, … for each sample of a row, 0 for padding.
        key_padding_mask: (B, T), 1 where not to attend.
        dtype: dtype of the hidden states.

    Returns:
        `attention_mask`; with FlashAttention also `cu_seq_lens_q`, `max_length_q` and the same of k
        (`FlashAttentionKwargs` of transformers/modeling_flash_attention_utils.py); with `BY_SAMPLE` `sample_lengths`.
    """
    if not is_flattened(implementation):
        return {"attention_mask": block_mask(segment_ids, key_padding_mask, _compute_dtype(dtype, segment_ids.device))}
    bounds, longest = sequence_bounds(segment_ids)
    if implementation == BY_SAMPLE:
        # transformers uses a 4-dimensional mask unchanged; without one, it would build a mask of (B * T)² elements.
        unused = torch.empty((1, 1, 0, 0), dtype=dtype, device=segment_ids.device)
        return {"attention_mask": unused, "sample_lengths": bounds.diff().tolist()}
    lengths = {f"cu_seq_lens_{side}": bounds for side in "qk"} | {f"max_length_{side}": longest for side in "qk"}
    return {"attention_mask": None, **lengths}


def is_flattened(implementation: str) -> bool:
    """Return whether an implementation needs the batch flattened to one row of B * T positions."""
    return implementation == BY_SAMPLE or "flash" in implementation


def block_mask(segment_ids: Tensor, key_padding_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive mask of causal attention inside each segment, (B, 1, T, T), 0 or the dtype's minimum.

    It is additive, because `eager` adds any mask: a boolean one would be added as 1 and 0.

    Every position attends to itself, so that no row of the mask is completely masked; softmax would then spread over
    all positions. This concerns padding and the slots of images that could not be loaded.
    """
    length = segment_ids.shape[1]
    allowed = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (key_padding_mask == 0)[:, None, :]
    allowed = allowed.tril_()
    allowed.diagonal(dim1=1, dim2=2).fill_(True)
    mask = torch.zeros((len(segment_ids), 1, length, length), dtype=dtype, device=segment_ids.device)
    return mask.masked_fill_(~allowed[:, None], torch.finfo(dtype).min)


def sequence_bounds(segment_ids: Tensor) -> tuple[Tensor, int]:
    """Return the bounds of the samples in the flattened batch, and the longest length.

    The padding of a row counts as one more sample, so that the bounds cover all B * T positions.

    Returns:
        (samples + 1,) int32 from 0 to B * T, and the length of the longest sample in positions.
    """
    begins = torch.ones_like(segment_ids, dtype=torch.bool)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    starts = torch.nonzero(begins.flatten())[:, 0]
    bounds = torch.cat([starts, starts.new_tensor([segment_ids.numel()])]).to(torch.int32)
    return bounds, int(bounds.diff().max())


def _compute_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of the computation, so that autocast does not convert the mask again in every layer."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def _attend_by_sample(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Apply `sdpa` to each sample of a flattened batch separately; to any other batch, as a whole.

    Shapes are those of transformers' attention functions: input (1, heads, positions, head size), output
    (1, positions, heads, head size).
    """
    lengths: list[int] | None = options.pop("sample_lengths", None)
    if lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    keywords: dict[str, Any] = {"dropout_p": options.get("dropout", 0.0), "scale": options.get("scaling")}
    attended = [
        functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True, **keywords)
        for q, k, v in zip(*(torch.split(tensor, lengths, dim=2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(attended, dim=2).transpose(1, 2), None


AttentionInterface.register(BY_SAMPLE, _attend_by_sample)
AttentionMaskInterface.register(BY_SAMPLE, sdpa_mask)
