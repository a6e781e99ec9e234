"""LLaVA's eleven instructions for a brief description, and a choice that depends only on the record."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TypeVar

Choice = TypeVar("Choice")

# Liu et al., "Visual Instruction Tuning", https://arxiv.org/abs/2304.08485, appendix, "The list of instructions for
# brief image description".
BRIEF_DESCRIPTION = (
    "Describe the image concisely.",
    "Provide a brief description of the given image.",
    "Offer a succinct explanation of the picture presented.",
    "Summarize the visual content of the image.",
    "Give a short and clear explanation of the subsequent image.",
    "Share a concise interpretation of the image provided.",
    "Present a compact description of the photo's key features.",
    "Relay a brief, clear account of the picture shown.",
    "Render a clear and concise summary of the photo.",
    "Write a terse but informative summary of the picture.",
    "Create a compact narrative representing the image presented.",
)


def choose(choices: Sequence[Choice], *, seed: int, record_id: str, purpose: str) -> Choice:
    """Choose one element uniformly, depending only on seed and record id.

    A record gets the same choice in every run, on every machine and at any position in the file. `purpose` makes
    several choices for one record independent of each other.
    """
    digest = blake2b(f"{seed}\0{purpose}\0{record_id}".encode(), digest_size=8).digest()
    return choices[int.from_bytes(digest, "big") % len(choices)]
