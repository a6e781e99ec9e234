"""The two folders of the LLaVA authors' own code: names of tensors and config keys.

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
# The name has "llava" in it: the authors' code tells by the name of the folder which class to load.
TEXT_MODEL = "text_model_llava"
# Rows of the image token, which transformers has in its vocabulary and the authors' code has not.
IMAGE_TOKEN_ROWS = "image_token_rows.safetensors"

# Names of parameters in transformers → names in the two folders; the first that fits.
_TO_TEXT = (
    ("model.language_model.", "model."),
    ("model.multi_modal_projector.linear_1.", "model.mm_projector.0."),
    ("model.multi_modal_projector.linear_2.", "model.mm_projector.2."),
    ("lm_head.", "lm_head."),
)
_IMAGE = ("model.vision_tower.", "vision_model.")
# Both spellings: transformers 4 has one more level in CLIPVisionModel.
_INNER = "vision_model."
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
# Frozen weights of the image model, which the authors' own checkpoints may carry a second copy of.
_SECOND_COPY = "model.vision_tower."

# transformers 4.37, which the authors' code is made for: modeling_llama.py, configuration_llama.py.
_THEIR_SCALINGS = ("linear", "dynamic")
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
    """A folder is not what the name of the conversion says; the message is one sentence for the user."""


def split_tensors(
    tensors: dict[str, Tensor], text_rows: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Parameters by their name in `LlavaForConditionalGeneration` → those of the folders.

    Args:
        tensors: the whole state dict.
        text_rows: rows of the vocabulary in the authors' code.

    Returns:
        Those of `image_model/`, of `text_model_llava/`, and the rows beyond `text_rows`, by the name of their tensor.

    Raises:
        LayoutError: a tensor has no place there.
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
            raise LayoutError(f"tensor {name} has no place in the LLaVA authors' code; expected a LLaVA-1.5 model")
    rest = {name: text[name][text_rows:].clone() for name in _VOCABULARY if len(text[name]) > text_rows}
    for name in _VOCABULARY:
        text[name] = text[name][:text_rows].clone()  # two tensors, also where they are tied
    return image, text, rest


def join_tensors(
    image: dict[str, Tensor], text: dict[str, Tensor], rest: dict[str, Tensor], like: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The inverse of `split_tensors`.

    Args:
        image, text, rest: of the two folders.
        like: the state dict of the model to fill, whose names are used.

    Raises:
        LayoutError: a tensor is missing or too many.
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
            raise LayoutError(f"tensor {theirs} is missing; expected the whole of a LLaVA-1.5 model")
        tensor = source.pop(theirs)
        if source is given and theirs in rest:
            tensor = torch.cat([tensor, rest[theirs]])
        joined[name] = tensor
    # Positions are no weights, but transformers 4 saved them.
    left = sorted(name for name in {**found, **given} if not name.endswith(("position_ids", "rotary_emb.inv_freq")))
    if left:
        raise LayoutError(f"tensor {left[0]} is none of a LLaVA-1.5 model")
    return joined


def text_config(
    config: LlavaConfig, *, image_model: str, text_rows: int, image_aspect_ratio: str, dtype: str
) -> dict[str, Any]:
    """`config.json` of `text_model_llava/`.

    Args:
        config: of the model.
        image_model: folder or hub name of the image model, as the authors' code is to find it.
        text_rows: rows of the vocabulary there.
        image_aspect_ratio: "square" or "pad".
        dtype: of the weights, such as "float32".

    Raises:
        LayoutError: its positions are scaled as the authors' code cannot.
    """
    llama: Any = config.text_config
    vision: Any = config.vision_config
    values = llama.to_dict()
    rope = dict(values.get("rope_parameters") or {})
    theta = rope.pop("rope_theta", values.get("rope_theta", 10000.0))
    scaling = _their_scaling(rope)
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
        # Not read there; the way back needs them.
        "image_token_index": config.image_token_index,
    }


def _their_scaling(rope: dict[str, Any]) -> dict[str, Any]:
    """`rope_scaling` as transformers 4.37 checks it: exactly `type` and a `factor` that is a float.

    Raises:
        LayoutError: it knows no such scaling.
    """
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return {}
    if kind not in _THEIR_SCALINGS:
        raise LayoutError(
            f"the text model scales its positions by rope_type {kind!r}, which the LLaVA authors' code does not know; "
            f"expected {' or '.join(_THEIR_SCALINGS)}"
        )
    return {"rope_scaling": {"type": kind, "factor": float(rope["factor"])}}


def _our_scaling(scaling: dict[str, Any]) -> dict[str, Any]:
    """The same with the key of transformers 5, which reads `type` nowhere but in a file of an older model."""
    others = {key: value for key, value in scaling.items() if key != "type"}
    return {"rope_type": scaling.get("type", "default"), **others}


def check_text_config(text: dict[str, Any], where: object) -> None:
    """Refuse the `config.json` of another model.

    Raises:
        LayoutError: it is no LLaVA-1.5 model of the authors' code with a Llama in it.
    """
    for key, expected in (
        ("model_type", ("llava_llama", "llava")),
        ("mm_projector_type", ("mlp2x_gelu",)),
        ("mm_vision_select_feature", ("patch",)),
    ):
        if text.get(key) not in expected:
            raise LayoutError(
                f"{where}: has {key} {text.get(key)!r}, expected {' or '.join(expected)}; "
                "give a LLaVA-1.5 model of the LLaVA authors' code, or what --to llava wrote"
            )


def hf_config(text: dict[str, Any], vision: CLIPVisionConfig, *, text_rows: int, all_rows: int) -> LlavaConfig:
    """The inverse of `text_config`.

    Args:
        text: `config.json` of the text model.
        vision: config of the image model.
        text_rows: rows of the vocabulary there.
        all_rows: with those of the image token.
    """
    llama = {key: text[key] for key in _LLAMA_KEYS if text.get(key) is not None}
    rope = {"rope_theta": text.get("rope_theta", 10000.0), **_our_scaling(text.get("rope_scaling") or {})}
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
    """A JSON object of a folder of the authors' code.

    Raises:
        LayoutError: it is missing, or no JSON object.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LayoutError(
            f"{path}: is missing; give a folder of the LLaVA authors' code, or one of --to llava"
        ) from None
    except ValueError:
        raise LayoutError(f"{path}: is not valid JSON") from None
    if not isinstance(document, dict):
        raise LayoutError(f"{path}: expected a JSON object")
    return document


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write it for people to read."""
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
