"""Build the model from params: with random weights, from pretrained parts or from a checkpoint; freeze parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from preprocess.settings import one_line
from trainer.data import RowShape
from trainer.model import LlavaForRows
from trainer.params import ModelParams, TextModelParams
from trainer.params_file import ParamsError
from trainer.pretrained import load_complete, load_image_model, load_text_model

# The number of rows of the embedding is padded to a multiple of this, as in the llava-hf models.
_ROWS_MULTIPLE = 64


def build_model(params: ModelParams, shape: RowShape, *, image_token_id: int | None) -> LlavaForRows:
    """Build a model with a new projector from pretrained or randomly initialised parts.

    Args:
        params: the section `model`.
        shape: shape of the rows that the model will be trained on.
        image_token_id: id of `<image>` in the tokenizer, used in prompts for `generate`; None, without a tokenizer,
            uses the first id after the vocabulary.

    Returns:
        the model in float32, with a row for the image token in the embedding and in the output layer.

    Raises:
        ParamsError: the parts cannot be loaded, or do not match each other, the given sizes or the rows.
    """
    image, text, attention = params.image_model, params.text_model, params.attention
    try:
        if image.pretrained is not None:
            vision = load_image_model(image.pretrained, attention)
        else:
            vision = CLIPVisionModel(CLIPVisionConfig.from_dict(image.sizes, attn_implementation=attention))
        if text.pretrained is not None:
            language = load_text_model(text.pretrained, attention)
        else:
            language = _random_text_model(text, attention)
    except ImportError as error:
        raise ParamsError(
            f"model.attention {attention}: cannot be used here ({one_line(error)[:300].rstrip('. ')}); give "
            "model.attention sdpa"
        ) from None
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_token_index=language.config.vocab_size if image_token_id is None else image_token_id,
        image_seq_length=shape.num_patches,
        vision_feature_layer=params.image_feature_select_layer_idx,
        vision_feature_select_strategy="default",
        tie_word_embeddings=language.config.tie_word_embeddings,
    )
    _check_fits(params, config, shape)
    # On the meta device, since all parts are replaced below; random initialisation would be wasted.
    with torch.device("meta"):
        # The constructor would reset the attention implementation of all parts to the default.
        kind: Any = LlavaForRows
        model = kind._from_config(config, attn_implementation=attention)
    projector = type(model.model.multi_modal_projector)(config)
    for layer in (projector.linear_1, projector.linear_2):
        layer.reset_parameters()  # torch's own initialisation, as in the LLaVA authors' code
    model.model.vision_tower, model.model.multi_modal_projector = vision, projector
    model.model.language_model, model.lm_head = language.model, language.lm_head
    model.generation_config = language.generation_config
    add_image_token(model)
    model.image_start_idx = shape.image_start_idx
    return model  # type: ignore[no-any-return]


def _random_text_model(text: TextModelParams, attention: str) -> Any:
    kind = text.model_type or "llama"
    make_config: Any = AutoConfig.for_model
    try:
        # No pad id: the default of some classes exceeds a small vocabulary, and rows mask their padding anyway.
        config = make_config(kind, **text.sizes, pad_token_id=None, attn_implementation=attention)
        make: Any = AutoModelForCausalLM.from_config
        return make(config)
    except Exception as error:  # a transformers class may raise any exception for sizes that it does not accept
        raise ParamsError(
            f"model.text_model.model_type {kind}: transformers cannot build a language model with these sizes "
            f"({one_line(error)[:200]}); give the model_type of a text model, such as qwen2, and sizes it supports"
        ) from None


def load_checkpoint(folder: str, params: ModelParams, shape: RowShape) -> LlavaForRows:
    """Load a model from a LLaVA folder: a checkpoint, the final model of a run, or any other that transformers loads.

    Raises:
        ParamsError: it cannot be loaded, or does not match the params or the rows.
    """
    model = load_complete(LlavaForRows, folder, "--checkpoint_path", attn_implementation=params.attention)
    found, wanted = model.config.vision_feature_layer, params.image_feature_select_layer_idx
    if found != wanted:
        raise ParamsError(
            f"model.image_feature_select_layer_idx is {wanted}, but {folder} was trained with {found}; give {found}"
        )
    _check_fits(params, model.config, shape)
    model.image_start_idx = shape.image_start_idx
    return model


def add_image_token(model: LlavaForConditionalGeneration) -> None:
    """Add a row for the image token to the embedding and to the output layer.

    The rows of the data do not use the token, since they have image slots. Prompts for `generate` do; its embedding is
    replaced by image features there. The new rows are the mean of the existing ones, so their logit is never the
    largest. `config.text_vocab_size` keeps the previous number of rows.
    """
    config: Any = model.config
    token, rows = config.image_token_index, config.text_config.vocab_size
    if token < rows:
        return
    config.text_vocab_size = rows
    model.resize_token_embeddings(token + 1, pad_to_multiple_of=_ROWS_MULTIPLE, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.model.language_model.embed_tokens, model.lm_head):
            layer.weight[rows:] = layer.weight[:rows].mean(dim=0)


def freeze(model: nn.Module, patterns: Iterable[str]) -> None:
    """Freeze every parameter whose name matches one of the regular expressions (`re.search`).

    Raises:
        ParamsError: a pattern is invalid or matches nothing, or no parameter is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        try:
            found = [name for name in parameters if re.search(pattern, name)]
        except re.error as error:
            raise ParamsError(f"model.freeze: {pattern!r} is not a valid regular expression ({error})") from None
        if not found:
            raise ParamsError(
                f"model.freeze: {pattern!r} matches no parameter name; the names begin with "
                f"{', '.join(_prefixes(parameters))}"
            )
        for name in found:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ParamsError("model.freeze freezes every parameter; leave the projector out of it")


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return the name prefixes of the parts of the model in order, such as `model.vision_tower.`."""
    parts = (name.split(".") for name in names)
    return list(dict.fromkeys(".".join(part[: 2 if part[0] == "model" else 1]) + "." for part in parts))


def _check_fits(params: ModelParams, config: LlavaConfig, shape: RowShape) -> None:
    vision: Any = config.vision_config
    text: Any = config.text_config
    _refuse_other_sizes("model.image_model", params.image_model.sizes, vision)
    # A saved model may have additional vocabulary rows for the image token.
    sizes = {**params.text_model.sizes}
    sizes.pop("vocab_size", None)
    theta = sizes.pop("rope_theta", None)
    _refuse_other_sizes("model.text_model", sizes, text)
    if theta is not None and theta != text.rope_parameters["rope_theta"]:
        raise ParamsError(
            f"model.text_model.rope_theta is {theta}, but the model has {text.rope_parameters['rope_theta']}; "
            "leave it out or correct it"
        )
    patches = (vision.image_size // vision.patch_size) ** 2
    if vision.image_size != shape.image_size or patches != shape.num_patches:
        raise ParamsError(
            f"model.image_model takes images of {vision.image_size} pixels and produces {patches} patches, but "
            f"the rows are made for {shape.image_size} pixels and {shape.num_patches} patches; "
            "use another image model, or write the dataset with its sizes"
        )
    layers, layer = vision.num_hidden_layers, params.image_feature_select_layer_idx
    if not -(layers + 1) <= layer <= layers:
        raise ParamsError(
            f"model.image_feature_select_layer_idx is {layer}, but an image model of {layers} layers has hidden states "
            f"{-(layers + 1)} to {layers}; give one of these"
        )
    if shape.vocab_size > config.image_token_index:
        raise ParamsError(
            f"the rows hold ids up to {shape.vocab_size - 1}, but the text model and its tokenizer have only ids up to "
            f"{config.image_token_index - 1}; give the text model whose tokenizer the dataset was written with"
        )
    if shape.max_sequence_length > text.max_position_embeddings:
        raise ParamsError(
            f"the rows have {shape.max_sequence_length} positions, but the text model supports at most "
            f"{text.max_position_embeddings}; write the dataset with a smaller processor.max_sequence_length"
        )
    if shape.image_start_idx is None and params.attention != "flash_attention_2":
        _refuse_other_attention(text, shape)


def _refuse_other_attention(text: Any, shape: RowShape) -> None:
    """Refuse text models with other kinds of attention: our mask replaces theirs and would lose their restrictions."""
    kinds = set(getattr(text, "layer_types", None) or ["sliding_attention"])
    window = getattr(text, "sliding_window", None)
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise ParamsError(
            f"the text model has layers of {sorted(unknown)[0]}, which do not isolate the samples of a packed row; use "
            "another text model, or write the dataset with processor.packing none"
        )
    if "sliding_attention" in kinds and window is not None and window < shape.max_sequence_length:
        raise ParamsError(
            f"the text model has an attention window of {window} positions, but the rows have "
            f"{shape.max_sequence_length}, and the mask of packed rows has no window; give model.attention "
            f"flash_attention_2, or write the dataset with a processor.max_sequence_length of at most {window}"
        )


def _refuse_other_sizes(section: str, sizes: Mapping[str, object], config: object) -> None:
    for name, given in sizes.items():
        found = getattr(config, name)
        if given != found:
            raise ParamsError(f"{section}.{name} is {given}, but the model has {found}; leave it out or correct it")
