"""The folder layout of the LLaVA authors' code: tensor names and config keys of its two folders.

`image_model/` is a CLIP vision model as `CLIPVisionModel.from_pretrained` reads it; `text_model_llava/` is what
`llava.model.builder.load_pretrained_model` reads: a `LlavaLlamaForCausalLM` with the projector in it, whose config
names the image model (haotian-liu/LLaVA: llava/model/builder.py, llava_arch.py, multimodal_encoder/clip_encoder.py,
multimodal_projector/builder.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

IMAGE_MODEL = "image_model"
# The name must contain "llava": the authors' code chooses the class to load by the name of the folder.
TEXT_MODEL = "text_model_llava"
# Rows of the image token, which is in the vocabulary of transformers but not in that of the authors' code.
IMAGE_TOKEN_ROWS = "image_token_rows.safetensors"

# Prefixes of parameter names in transformers → prefixes in the two folders; the first match applies.
_TO_TEXT = (
    ("model.language_model.", "model."),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("lm_head.", "lm_head."),
)
_IMAGE = ("model.vision_tower.", "vision_model.")
# transformers 4 has this additional level in CLIPVisionModel, so files may have either form.
_INNER = "vision_model."
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
# The authors' checkpoints may contain a second copy of the frozen image model under this prefix.
_SECOND_COPY = "model.vision_tower."

# As in transformers 4.37, which the authors' code requires: modeling_llama.py, configuration_llama.py.
_SUPPORTED_SCALINGS = ("linear", "dynamic")
_LLAMA_KEYS = (
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pad_token_id",
    "pretraining_tp",
    "rms_norm_eps",
    "tie_word_embeddings",
    "vocab_size",
)


class LayoutError(ValueError):
    """A folder does not have the expected layout; the message is one sentence for the user."""


def split_tensors(
    tensors: dict[str, Tensor], text_rows: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Split the state dict of `LlavaForConditionalGeneration` into the tensors of the two folders.

    Args:
        tensors: the whole state dict.
        text_rows: vocabulary size in the authors' code.

    Returns:
        the tensors of `image_model/`, those of `text_model_llava/`, and the vocabulary rows from `text_rows` on, by
        tensor name.

    Raises:
        LayoutError: a tensor has no counterpart.
    """
    image: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(_IMAGE[0]):
            image[_INNER + name.removeprefix(_IMAGE[0]).removeprefix(_INNER)] = tensor
            continue
        for ours, theirs in _TO_TEXT:
            if name.startswith(ours):
                text[theirs + name.removeprefix(ours)] = tensor
                break
        else:
            raise LayoutError(
                f"tensor {name} has no counterpart in the LLaVA authors' code; expected a LLaVA-1.5 model"
            )
    rest = {name: text[name][text_rows:].clone() for name in _VOCABULARY if len(text[name]) > text_rows}
    for name in _VOCABULARY:
        text[name] = text[name][:text_rows].clone()  # clones, since tied weights must become two tensors
    return image, text, rest


def join_tensors(
    image: dict[str, Tensor], text: dict[str, Tensor], rest: dict[str, Tensor], like: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The inverse of `split_tensors`.

    Args:
        image, text, rest: tensors of the two folders.
        like: state dict of the target model; only its names are used.

    Raises:
        LayoutError: a tensor is missing or unexpected.
    """
    joined: dict[str, Tensor] = {}
    found = {_INNER + name.removeprefix(_INNER): tensor for name, tensor in image.items()}
    given = {name: tensor for name, tensor in text.items() if not name.startswith(_SECOND_COPY)}
    for name in like:
        if name.startswith(_IMAGE[0]):
            source, theirs = found, _INNER + name.removeprefix(_IMAGE[0]).removeprefix(_INNER)
        else:
            source = given
            ours, prefix = next(pair for pair in _TO_TEXT if name.startswith(pair[0]))
            theirs = prefix + name.removeprefix(ours)
        if theirs not in source:
            raise LayoutError(f"tensor {theirs} is missing; expected a complete LLaVA-1.5 model")
        tensor = source.pop(theirs)
        if source is given and theirs in rest:
            tensor = torch.cat([tensor, rest[theirs]])
        joined[name] = tensor
    # Position buffers are not weights, but transformers 4 saved them.
    left = sorted(name for name in {**found, **given} if not name.endswith(("position_ids", "rotary_emb.inv_freq")))
    if left:
        raise LayoutError(f"tensor {left[0]} does not belong to a LLaVA-1.5 model")
    return joined


def text_config(
    config: LlavaConfig, *, image_model: str, text_rows: int, image_aspect_ratio: str, dtype: str
) -> dict[str, Any]:
    """Return the `config.json` of `text_model_llava/`.

    Args:
        config: config of the model.
        image_model: folder or hub name of the image model, for the authors' code.
        text_rows: vocabulary size in the authors' code.
        image_aspect_ratio: "square" or "pad".
        dtype: dtype of the weights, such as "float32".

    Raises:
        LayoutError: the authors' code does not support its RoPE scaling.
    """
    llama: Any = config.text_config
    vision: Any = config.vision_config
    values = llama.to_dict()
    rope = dict(values.get("rope_parameters") or {})
    theta = rope.pop("rope_theta", values.get("rope_theta", 10000.0))
    scaling = _scaling_to_authors(rope)
    return {
        **{key: values[key] for key in _LLAMA_KEYS if key in values},
        **scaling,
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "vocab_size": text_rows,
        "rope_theta": theta,
        "torch_dtype": dtype,
        "use_cache": True,
        "use_mm_proj": True,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": image_model,
        "mm_hidden_size": vision.hidden_size,
        "mm_vision_select_layer": config.vision_feature_layer,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": image_aspect_ratio,
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        "tokenizer_padding_side": "right",
        "tokenizer_model_max_length": 2048,
        # Not read by the authors' code, but needed to convert back.
        "image_token_index": config.image_token_index,
    }


def _scaling_to_authors(rope: dict[str, Any]) -> dict[str, Any]:
    """Return `rope_scaling` in the form that transformers 4.37 accepts: exactly `type` and a float `factor`.

    Raises:
        LayoutError: transformers 4.37 does not support the scaling.
    """
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return {}
    if kind not in _SUPPORTED_SCALINGS:
        raise LayoutError(
            f"the text model has rope_type {kind!r}, which the LLaVA authors' code does not support; "
            f"expected {' or '.join(_SUPPORTED_SCALINGS)}"
        )
    return {"rope_scaling": {"type": kind, "factor": float(rope["factor"])}}


def _scaling_from_authors(scaling: dict[str, Any]) -> dict[str, Any]:
    """Convert `rope_scaling` to the keys of transformers 5, which calls `type` `rope_type`."""
    others = {key: value for key, value in scaling.items() if key != "type"}
    return {"rope_type": scaling.get("type", "default"), **others}


def check_text_config(text: dict[str, Any], where: object) -> None:
    """Check that a `config.json` is that of a LLaVA-1.5 model.

    Raises:
        LayoutError: it is not a Llama-based LLaVA-1.5 model of the authors' code.
    """
    for key, expected in (
        ("model_type", ("llava_llama", "llava")),
        ("mm_projector_type", ("mlp2x_gelu",)),
        ("mm_vision_select_feature", ("patch",)),
    ):
        if text.get(key) not in expected:
            raise LayoutError(
                f"{where}: has {key} {text.get(key)!r}, expected {' or '.join(expected)}; "
                "give a LLaVA-1.5 model of the LLaVA authors' code, or the output of --to llava"
            )


def hf_config(text: dict[str, Any], vision: CLIPVisionConfig, *, text_rows: int, all_rows: int) -> LlavaConfig:
    """The inverse of `text_config`.

    Args:
        text: `config.json` of the text model.
        vision: config of the image model.
        text_rows: vocabulary size in the authors' code.
        all_rows: vocabulary size including the rows for the image token.
    """
    llama = {key: text[key] for key in _LLAMA_KEYS if text.get(key) is not None}
    rope = {"rope_theta": text.get("rope_theta", 10000.0), **_scaling_from_authors(text.get("rope_scaling") or {})}
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig.from_dict({**llama, "rope_parameters": rope, "vocab_size": all_rows}),
        image_token_index=text.get("image_token_index", text_rows),
        image_seq_length=(int(str(vision.image_size)) // int(str(vision.patch_size))) ** 2,
        vision_feature_layer=text["mm_vision_select_layer"],
        vision_feature_select_strategy="default",
        tie_word_embeddings=bool(text.get("tie_word_embeddings")),
    )
    if all_rows > text_rows:
        config.text_vocab_size = text_rows
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a folder of the authors' code.

    Raises:
        LayoutError: it is missing or not a JSON object.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LayoutError(
            f"{path}: is missing; give a model of the LLaVA authors' code, or the output of --to llava"
        ) from None
    except ValueError:
        raise LayoutError(f"{path}: is not valid JSON; copy the file again") from None
    if not isinstance(document, dict):
        raise LayoutError(f"{path}: holds a JSON {type(document).__name__}, expected an object; copy the file again")
    return document


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document, indented and with sorted keys."""
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
