"""The tokenizer and the image processor that are saved beside the weights, for prompts with `<image>`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trainer.params import ModelParams
from trainer.prompt_tokenizer import IMAGE_TOKEN, load_prompt_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
_IMAGE_SETTINGS = ("size", "crop_size", "image_mean", "image_std", "resample", "rescale_factor")


def find_tokenizer(
    params: ModelParams, checkpoint: str | None, *, images_begin_texts: bool = True
) -> PreTrainedTokenizerBase | None:
    """The tokenizer to save, with the image token.

    It is `model.text_model.tokenizer`, else that of the checkpoint, else that of the pretrained text model; None
    where none of them is there. `images_begin_texts`: see `load_prompt_tokenizer`.
    """
    text = params.text_model
    if text.tokenizer is not None:
        return load_prompt_tokenizer(
            text.tokenizer, "model.text_model.tokenizer", images_begin_texts=images_begin_texts
        )
    if checkpoint is not None:
        if not any((Path(checkpoint) / name).exists() for name in TOKENIZER_FILES):
            return None
        return load_prompt_tokenizer(checkpoint, "--checkpoint_path", images_begin_texts=images_begin_texts)
    if text.pretrained is not None:
        return load_prompt_tokenizer(
            text.pretrained, "model.text_model.pretrained", images_begin_texts=images_begin_texts
        )
    return None


def make_processor(tokenizer: PreTrainedTokenizerBase | None, images: Any, *, patch_size: int) -> Any:
    """What turns a prompt and a picture into the model's inputs.

    Args:
        tokenizer: with the image token.
        images: of `make_image_processor`.
        patch_size: of the image model, in pixels.

    Returns:
        A `LlavaProcessor`; without a tokenizer the image processor alone.
    """
    if tokenizer is None:
        return images
    from transformers import LlavaProcessor

    make: Any = LlavaProcessor
    return make(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" takes off again
        image_token=IMAGE_TOKEN,
    )


def make_image_processor(settings: Mapping[str, Any], *, image_size: int, pad: bool) -> Any:
    """CLIP's image processor, or LLaVA's where pictures are made square with bars first.

    Args:
        settings: of the processor of the image model; what is not in it is CLIP's, as in `loaders`.
        image_size: of the image model, in pixels.
        pad: as the data was made (`image_aspect_ratio: pad`).
    """
    # Here, since transformers remarks on a missing torchvision when they are imported, before it can be told not to.
    import transformers

    kept = {
        "size": {"shortest_edge": image_size},
        "crop_size": {"height": image_size, "width": image_size},
        **{name: settings[name] for name in _IMAGE_SETTINGS if settings.get(name) is not None},
    }
    kind = "LlavaImageProcessor" if pad else "CLIPImageProcessor"
    # On Pillow, as the pixels of training are: with torchvision, transformers 5 resizes otherwise.
    make = getattr(transformers, f"{kind}Pil", None) or getattr(transformers, kind)
    return make(**kept, **({"do_pad": True} if pad else {}))
