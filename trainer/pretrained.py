"""Folders and hub names → models and tokenizers of transformers, with every problem in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel, PreTrainedTokenizerBase

from preprocess.settings import one_line
from trainer.params_file import ParamsError

T = TypeVar("T")


def quiet_transformers() -> None:
    """No progress bars, and no remarks below an error: for the commands, whose output is their own."""
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_image_model(source: str, attention: str) -> CLIPVisionModel:
    """A pretrained CLIP vision model in float32; `source` may be a whole CLIP."""
    return load_whole(CLIPVisionModel, source, "model.image_model.pretrained", attn_implementation=attention)


def load_text_model(source: str, attention: str) -> Any:
    """A pretrained language model in float32, of any class that `AutoModelForCausalLM` builds."""
    kind: Any = AutoModelForCausalLM
    return load_whole(kind, source, "model.text_model.pretrained", attn_implementation=attention)


def load_whole(kind: type[T], source: str, key: str, **options: Any) -> T:
    """`from_pretrained` that takes no model with holes: transformers fills those with random numbers and goes on.

    Args:
        kind: a model class of transformers.
        source: folder or hub name.
        key: the params key or argument that named it, for messages.
        options: for `from_pretrained`.

    Raises:
        ParamsError: there is no such model, it is of another kind, or tensors are missing or of another shape.
    """
    loader: Any = kind

    def load() -> tuple[T, dict[str, Any]]:
        model, found = loader.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **options)
        return model, found

    model, found = _said_plainly(load, source, key)
    missing = sorted(found["missing_keys"]) + sorted(str(name) for name, *_ in found["mismatched_keys"])
    if missing:
        raise ParamsError(
            f"{key} {source}: has no weights, or others than its config says, for {len(missing)} tensors of "
            f"{kind.__name__}, the first {missing[0]}; give a whole model of that kind"
        )
    return model


def load_tokenizer(source: str, key: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name.

    Raises:
        ParamsError: there is none.
    """
    return _said_plainly(lambda: AutoTokenizer.from_pretrained(source), source, key)


def load_image_settings(source: str, key: str) -> dict[str, Any]:
    """The settings of the image processor that stands beside a model; none where there is none.

    Raises:
        ParamsError: the hub has no such model.
    """
    if Path(source).is_dir():
        for name, part in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
            if (Path(source) / name).exists():
                document = json.loads((Path(source) / name).read_bytes())
                return dict(document if part is None else document.get(part) or {})
        return {}
    # Here, since transformers remarks on a missing torchvision when it is imported, before it can be told not to.
    from transformers import CLIPImageProcessor

    return dict(_said_plainly(lambda: CLIPImageProcessor.from_pretrained(source), source, key).to_dict())


def _said_plainly(load: Callable[[], T], source: str, key: str) -> T:
    if source.startswith(("/", "./", "../")) and not Path(source).is_dir():
        raise ParamsError(f"{key} {source}: there is no such folder; give a folder, or a name on the Hugging Face hub")
    try:
        return load()
    except Exception as error:  # transformers raises whatever a file leads it to, up to AttributeError
        said = one_line(error)[:300].rstrip(". ")
        raise ParamsError(
            f"{key} {source}: cannot be loaded ({type(error).__name__}: {said}); give the folder of a model that "
            "transformers can load, or a name on the Hugging Face hub"
        ) from None
