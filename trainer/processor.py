"""Build the tokenizer and the image processor that are saved with the weights, for prompts with `<image>`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from trainer.chat_prompt import RowTemplate, write_chat_template
from trainer.params import ModelParams
from trainer.prompt_tokenizer import IMAGE_TOKEN, load_prompt_tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
_IMAGE_SETTINGS = ("size", "crop_size", "image_mean", "image_std", "resample", "rescale_factor")


def find_tokenizer(
    params: ModelParams, checkpoint: str | None, *, image_starts_new_text: bool = True
) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer to save, with the image token.

    Uses `model.text_model.tokenizer`, else the tokenizer of the checkpoint, else that of the pretrained text model;
    returns None if there is none of these. `image_starts_new_text`: see `load_prompt_tokenizer`.
    """
    text = params.text_model
    if text.tokenizer is not None:
        return load_prompt_tokenizer(
            text.tokenizer, "model.text_model.tokenizer", image_starts_new_text=image_starts_new_text
        )
    if checkpoint is not None:
        if not any((Path(checkpoint) / name).exists() for name in TOKENIZER_FILES):
            return None
        return load_prompt_tokenizer(checkpoint, "--checkpoint_path", image_starts_new_text=image_starts_new_text)
    if text.pretrained is not None:
        return load_prompt_tokenizer(
            text.pretrained, "model.text_model.pretrained", image_starts_new_text=image_starts_new_text
        )
    return None


def make_processor(
    tokenizer: PreTrainedTokenizerBase | None, images: Any, *, patch_size: int, template: RowTemplate | None = None
) -> Any:
    """Build the processor that turns a prompt and an image into model inputs.

    Args:
        tokenizer: tokenizer with the image token, or None.
        images: image processor from `make_image_processor`.
        patch_size: patch size of the image model in pixels.
        template: the template of the rows, which becomes the chat template of tokenizer and processor.

    Returns:
        a `LlavaProcessor`; without a tokenizer, only the image processor.
    """
    if tokenizer is None:
        return images
    from transformers import LlavaProcessor

    if template is not None:
        bos, eos = (str(token) if token else None for token in (tokenizer.bos_token, tokenizer.eos_token))
        written = write_chat_template(template, bos=bos, eos=eos)
        tokenizer.chat_template = written or tokenizer.chat_template
    make: Any = LlavaProcessor
    return make(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" removes again
        image_token=IMAGE_TOKEN,
        chat_template=tokenizer.chat_template,
    )


def make_image_processor(settings: Mapping[str, Any], *, image_size: int, pad: bool) -> Any:
    """Build CLIP's image processor, or LLaVA's, which pads images to squares first.

    Args:
        settings: settings of the image model's processor; missing ones default to CLIP's, as in `loaders`.
        image_size: image size of the image model in pixels.
        pad: whether images are padded (`image_aspect_ratio: pad` in training).
    """
    # Imported here, since the import prints a message about a missing torchvision before it can be silenced.
    import transformers

    kept = {
        "size": {"shortest_edge": image_size},
        "crop_size": {"height": image_size, "width": image_size},
        **{name: settings[name] for name in _IMAGE_SETTINGS if settings.get(name) is not None},
    }
    kind = "LlavaImageProcessor" if pad else "CLIPImageProcessor"
    # The Pillow variant, as in training: with torchvision, transformers 5 resizes differently.
    make = getattr(transformers, f"{kind}Pil", None) or getattr(transformers, kind)
    return make(**kept, **({"do_pad": True} if pad else {}))
