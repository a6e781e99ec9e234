"""The image processor of CLIP as the LLaVA authors ran it: with Pillow, whatever else is installed."""

from typing import Any

import transformers


def clip_processor(size: int = 336) -> Any:
    """transformers 5 resizes with torchvision, to other pixels, where it finds it; its class with Pillow is apart."""
    make = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    return make(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
