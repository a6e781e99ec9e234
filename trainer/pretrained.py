"""Load models and tokenizers of transformers from folders or hub names, reporting errors in one sentence."""

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
    """Disable progress bars and all messages below errors of transformers, for use in commands."""
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def load_image_model(source: str, attention: str) -> CLIPVisionModel:
    """Load a pretrained CLIP vision model in float32; `source` may be a whole CLIP model."""
    return load_complete(CLIPVisionModel, source, "model.image_model.pretrained", attn_implementation=attention)


def load_text_model(source: str, attention: str) -> Any:
    """Load a pretrained language model in float32, of any class that `AutoModelForCausalLM` supports."""
    kind: Any = AutoModelForCausalLM
    return load_complete(kind, source, "model.text_model.pretrained", attn_implementation=attention)


def load_complete(kind: type[T], source: str, key: str, **options: Any) -> T:
    """Call `from_pretrained`, but refuse missing weights, which transformers would initialise randomly.

    Args:
        kind: a model class of transformers.
        source: folder or hub name.
        key: the params key or argument that named it, for messages.
        options: arguments of `from_pretrained`.

    Raises:
        ParamsError: the model does not exist, is of another kind, or tensors are missing or have another shape.
    """
    loader: Any = kind

    def load() -> tuple[T, dict[str, Any]]:
        model, found = loader.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **options)
        return model, found

    model, found = _call_loader(load, source, key)
    missing = sorted(found["missing_keys"]) + sorted(str(name) for name, *_ in found["mismatched_keys"])
    if missing:
        raise ParamsError(
            f"{key} {source}: {len(missing)} tensors of {kind.__name__} are missing or have another shape, the "
            f"first is {missing[0]}; give a complete model of that class"
        )
    return model


def load_tokenizer(source: str, key: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or hub name.

    Raises:
        ParamsError: it cannot be loaded.
    """
    return _call_loader(lambda: AutoTokenizer.from_pretrained(source), source, key)


def load_image_settings(source: str, key: str) -> dict[str, Any]:
    """Return the settings of a model's image processor; empty if it has none.

    Raises:
        ParamsError: the hub has no such model.
    """
    if Path(source).is_dir():
        for name, part in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
            if (Path(source) / name).exists():
                document = json.loads((Path(source) / name).read_bytes())
                return dict(document if part is None else document.get(part) or {})
        return {}
    # Imported here, since the import prints a message about a missing torchvision before it can be silenced.
    from transformers import CLIPImageProcessor

    return dict(_call_loader(lambda: CLIPImageProcessor.from_pretrained(source), source, key).to_dict())


def _call_loader(load: Callable[[], T], source: str, key: str) -> T:
    if source.startswith(("/", "./", "../")) and not Path(source).is_dir():
        raise ParamsError(f"{key} {source}: no such folder; give a folder, or a name on the Hugging Face hub")
    try:
        return load()
    except Exception as error:  # transformers raises many types for bad files, even AttributeError
        message = one_line(error)[:300].rstrip(". ")
        raise ParamsError(
            f"{key} {source}: cannot be loaded ({type(error).__name__}: {message}); give the folder of a model that "
            "transformers can load, or a name on the Hugging Face hub"
        ) from None
