"""`python -m trainer.convert`: convert LLaVA models between transformers and the LLaVA authors' code."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlavaForConditionalGeneration

from preprocess.settings import one_line
from trainer.build import add_image_token
from trainer.llava_layout import (
    IMAGE_MODEL,
    IMAGE_TOKEN_ROWS,
    TEXT_MODEL,
    LayoutError,
    check_text_config,
    hf_config,
    join_tensors,
    read_json,
    split_tensors,
    text_config,
    write_json,
)
from trainer.llava_tokenizer import check_tokenizer, copy_tokenizer
from trainer.params_file import ParamsError
from trainer.pretrained import load_complete, load_image_settings, quiet_transformers
from trainer.processor import TOKENIZER_FILES, make_image_processor, make_processor
from trainer.prompt_tokenizer import IMAGE_TOKEN, image_token_id, load_prompt_tokenizer

DONE, FAILED, WRONG_INPUT = 0, 1, 2

_EPILOG = """\
With --to llava, OUT gets two folders, image_model/ and text_model_llava/, for the LLaVA authors' code, such as
  python -m llava.eval.run_llava --model-path OUT/text_model_llava --image-file FILE --query QUESTION
With --to hf, FOLDER is such an OUT, or a checkpoint of the authors' code whose mm_vision_tower is a local folder.

Exit codes: 0 done; 1 writing failed; 2 arguments or folders are wrong.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    quiet_transformers()
    source, target = Path(options.folder).expanduser(), Path(options.out).expanduser()
    try:
        if not source.is_dir():
            raise LayoutError(f"{source}: no such folder; give the folder of a LLaVA model")
        if target.exists() and any(target.iterdir()):
            raise LayoutError(f"{target}: is not empty; give another OUT, or remove it")
        if options.to == "hf" and options.tokenizer is not None:
            raise LayoutError("--tokenizer is only for --to llava; --to hf uses the tokenizer in FOLDER")
        with _all_or_nothing(target) as unfinished:
            if options.to == "llava":
                to_llava(source, unfinished, options.tokenizer, image_model=target.resolve() / IMAGE_MODEL)
            else:
                to_hf(source, unfinished)
    except (LayoutError, ParamsError) as error:
        return _fail(WRONG_INPUT, str(error))
    except (OSError, SafetensorError) as error:
        return _fail(FAILED, f"{one_line(error)}; nothing was written; fix this and rerun")
    print(f"written      {target}")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.convert",
        description="Convert a LLaVA model between transformers and the LLaVA authors' own code.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--to",
        choices=["llava", "hf"],
        required=True,
        help="target format: llava for the LLaVA authors' code, hf for transformers",
    )
    parser.add_argument("folder", metavar="FOLDER", help="model folder to convert")
    parser.add_argument("out", metavar="OUT", help="output folder; must be empty or not exist")
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="folder of the tokenizer files (default FOLDER); the authors' code needs tokenizer.model of the text "
        "model, which transformers 5 does not save",
    )
    return parser


@contextlib.contextmanager
def _all_or_nothing(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `target` at the end; a failed conversion leaves nothing behind."""
    target = target.resolve()
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.replace(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def to_llava(folder: Path, out: Path, tokenizer: str | None, *, image_model: Path) -> None:
    """Write `image_model/` and `text_model_llava/`.

    Args:
        folder: a transformers model folder.
        out: an empty folder.
        tokenizer: folder of the tokenizer files; None uses those of `folder`.
        image_model: final path of `image_model/`, recorded in the config.

    Raises:
        LayoutError, ParamsError: `folder` is not a LLaVA-1.5 model, or `tokenizer` is not the tokenizer of the model.
    """
    model = load_complete(LlavaForConditionalGeneration, str(folder), "FOLDER")
    _restore_dtypes(model, folder)
    config: Any = model.config
    if config.vision_feature_select_strategy != "default" or config.projector_hidden_act != "gelu":
        raise LayoutError(f"{folder}: its projector is not the GELU MLP of LLaVA-1.5; give a LLaVA-1.5 model")
    text_rows = getattr(config, "text_vocab_size", config.text_config.vocab_size)
    image, text, rest = split_tensors(model.state_dict(), text_rows)
    settings = load_image_settings(str(folder), "FOLDER")
    described = text_config(
        config,
        image_model=str(image_model),
        text_rows=text_rows,
        image_aspect_ratio="pad" if settings.get("do_pad") else "square",
        dtype=str(model.lm_head.weight.dtype).removeprefix("torch."),
    )
    given = None if tokenizer is None else Path(tokenizer).expanduser()
    if given is not None:
        check_tokenizer(given, folder, text_rows)
    image_folder, text_folder = out / IMAGE_MODEL, out / TEXT_MODEL
    image_folder.mkdir()
    text_folder.mkdir()
    save_torch_state_dict(image, image_folder)
    config.vision_config.architectures = ["CLIPVisionModel"]
    config.vision_config.save_pretrained(image_folder)
    size = config.vision_config.image_size
    make_image_processor(settings, image_size=size, pad=False).save_pretrained(image_folder)
    save_torch_state_dict(text, text_folder)
    if rest:
        save_file(rest, text_folder / IMAGE_TOKEN_ROWS)
    write_json(text_folder / "config.json", described)
    warning = copy_tokenizer(given or folder, text_folder, text_rows)
    if warning is not None:
        print(f"trainer.convert: warning: {warning}", file=sys.stderr)


def to_hf(folder: Path, out: Path) -> None:
    """Write a folder that `LlavaForConditionalGeneration.from_pretrained` reads.

    Raises:
        LayoutError, ParamsError: `folder` is not a LLaVA-1.5 model of the authors' code.
    """
    text_folder = folder / TEXT_MODEL if (folder / TEXT_MODEL).is_dir() else folder
    described = read_json(text_folder / "config.json")
    check_text_config(described, text_folder / "config.json")
    image_folder = folder / IMAGE_MODEL
    if not image_folder.is_dir():
        image_folder = Path(str(described.get("mm_vision_tower")))
        if not image_folder.is_dir():
            raise LayoutError(
                f"{folder}: has no {IMAGE_MODEL}/, and its mm_vision_tower {image_folder} is not a folder; copy the "
                f"image model to {folder / IMAGE_MODEL}"
            )
    vision = CLIPVisionConfig.from_pretrained(image_folder)
    text, image = _read_tensors(text_folder), _read_tensors(image_folder)
    rest = load_file(text_folder / IMAGE_TOKEN_ROWS) if (text_folder / IMAGE_TOKEN_ROWS).exists() else {}
    try:
        text_rows = len(text["model.embed_tokens.weight"])
    except KeyError:
        raise LayoutError(
            f"{text_folder}: has no tensor model.embed_tokens.weight; give a complete LLaVA-1.5 model"
        ) from None
    all_rows = text_rows + (len(rest["lm_head.weight"]) if rest else 0)
    config = hf_config(described, vision, text_rows=text_rows, all_rows=all_rows)
    tokenizer = None
    if any((text_folder / name).exists() for name in TOKENIZER_FILES):
        tokenizer = load_prompt_tokenizer(str(text_folder), "FOLDER")
        if image_token_id(tokenizer) != config.image_token_index:
            raise LayoutError(
                f"{text_folder}: {IMAGE_TOKEN} has id {image_token_id(tokenizer)} in the tokenizer, but "
                f"{config.image_token_index} in the weights; replace it with the tokenizer of the text model"
            )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.load_state_dict(join_tensors(image, text, rest, model.state_dict()), assign=True)
    add_image_token(model)
    model.save_pretrained(out)
    images = make_image_processor(
        load_image_settings(str(image_folder), "FOLDER"),
        image_size=int(str(vision.image_size)),
        pad=described.get("image_aspect_ratio") == "pad",
    )
    make_processor(tokenizer, images, patch_size=int(str(vision.patch_size))).save_pretrained(out)


def _restore_dtypes(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Convert each part back to its dtype in the files; everything was loaded in float32, which is lossless.

    A part is recognised by a name component that is the same in all versions of transformers.
    """
    parts = {
        "vision_tower": model.model.vision_tower,
        "multi_modal_projector": model.model.multi_modal_projector,
        "embed_tokens": model.model.language_model,
        "lm_head": model.lm_head,
    }
    dtypes: dict[str, torch.dtype] = {}
    for path in folder.glob("model*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for part in parts:
                name = next((name for name in file.keys() if part in name), None)  # noqa: SIM118, it is not a dict
                if name is not None:
                    dtypes[part] = file.get_tensor(name).dtype
    for part, dtype in dtypes.items():
        parts[part].to(dtype)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read all weights of a folder, as safetensors or PyTorch files, sharded or not."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob(pattern)):
            tensors |= load_file(path) if path.suffix == ".safetensors" else _read_pickled(path)
        if tensors:
            return tensors
    raise LayoutError(
        f"{folder}: has no weights, expected model*.safetensors or pytorch_model*.bin; give a complete model"
    )


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `torch.save` file without executing pickled code."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, ValueError):
        raise LayoutError(
            f"{path}: is damaged, or holds objects other than tensors; download it again, or save the model "
            "as safetensors"
        ) from None


def _fail(code: int, message: str) -> int:
    print(f"trainer.convert: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
