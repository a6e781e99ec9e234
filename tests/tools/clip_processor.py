"""CLIP's image processor as the LLaVA authors used it: with Pillow, even if torchvision is installed."""

from typing import Any

import transformers


def clip_processor(size: int = 336) -> Any:
    """By default, transformers 5 resizes with torchvision, which gives other pixels; Pillow has its own class."""
    make = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    return make(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
