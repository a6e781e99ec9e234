"""`python -m trainer.convert`: a Hugging Face LLaVA folder ↔ the two folders of the LLaVA authors' own code."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlavaForConditionalGeneration

from trainer.build import add_image_token
from trainer.llava_layout import (
    IMAGE_MODEL,
    IMAGE_TOKEN_ROWS,
    TEXT_MODEL,
    LayoutError,
    check_text_config,
    hf_config,
    join_tensors,
    split_tensors,
    text_config,
)
from trainer.params_file import ParamsError, one_line
from trainer.pretrained import load_image_settings, load_whole, quiet_transformers
from trainer.processor import TOKENIZER_FILES, make_image_processor, make_processor
from trainer.prompt_tokenizer import IMAGE_TOKEN, image_token_id, load_prompt_tokenizer

DONE, FAILED, WRONG_INPUT = 0, 1, 2
_COPIED = (*TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")

_EPILOG = """\
OUT of --to llava gets two folders, image_model/ and text_model_llava/, for the LLaVA authors' own code, such as
  python -m llava.eval.run_llava --model-path OUT/text_model_llava --image-file FILE --query QUESTION
FOLDER of --to hf is such an OUT, or a checkpoint of theirs whose mm_vision_tower can be loaded.

Exit codes: 0 done; 1 writing failed; 2 arguments or folders are wrong.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code."""
    options = _parser().parse_args(arguments)
    quiet_transformers()
    source, target = Path(options.folder).expanduser(), Path(options.out).expanduser()
    try:
        if not source.is_dir():
            raise LayoutError(f"{source}: there is no such folder")
        if target.exists() and any(target.iterdir()):
            raise LayoutError(f"{target}: is not empty; give another OUT, or remove it")
        if options.to == "llava":
            to_llava(source, target, options.tokenizer)
        else:
            if options.tokenizer is not None:
                raise LayoutError("--tokenizer goes with --to llava; --to hf takes the one in the folder")
            to_hf(source, target)
    except (LayoutError, ParamsError) as error:
        return _fail(WRONG_INPUT, str(error))
    except (OSError, SafetensorError) as error:
        return _fail(FAILED, f"{one_line(error)}; mend that, remove {target} and run the same command again")
    print(f"written      {target}")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.convert",
        description="Convert a LLaVA model between transformers and the LLaVA authors' own code.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--to", choices=["llava", "hf"], required=True)
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        help="take the tokenizer files of this folder: the authors' code wants the tokenizer.model of the text model, "
        "which transformers 5 does not save",
    )
    return parser


def to_llava(folder: Path, out: Path, tokenizer: str | None) -> None:
    """Write `image_model/` and `text_model_llava/`.

    Raises:
        LayoutError, ParamsError: `folder` is no LLaVA-1.5 model, or `tokenizer` has no files.
    """
    model = load_whole(LlavaForConditionalGeneration, str(folder), "FOLDER")
    _restore_dtypes(model, folder)
    config: Any = model.config
    if config.vision_feature_select_strategy != "default" or config.projector_hidden_act != "gelu":
        raise LayoutError(f"{folder}: its projector is not that of LLaVA-1.5, a GELU over patch features")
    text_rows = getattr(config, "text_vocab_size", config.text_config.vocab_size)
    image, text, rest = split_tensors(model.state_dict(), text_rows)
    settings = load_image_settings(str(folder), "FOLDER")
    image_folder, text_folder = out / IMAGE_MODEL, out / TEXT_MODEL
    image_folder.mkdir(parents=True)
    text_folder.mkdir()
    save_torch_state_dict(image, image_folder)
    config.vision_config.architectures = ["CLIPVisionModel"]
    config.vision_config.save_pretrained(image_folder)
    size = config.vision_config.image_size
    make_image_processor(settings, image_size=size, pad=False).save_pretrained(image_folder)
    save_torch_state_dict(text, text_folder)
    if rest:
        save_file(rest, text_folder / IMAGE_TOKEN_ROWS)
    _write_json(
        text_folder / "config.json",
        text_config(
            config,
            image_model=str(image_folder.resolve()),
            text_rows=text_rows,
            image_aspect_ratio="pad" if settings.get("do_pad") else "square",
            dtype=str(model.lm_head.weight.dtype).removeprefix("torch."),
        ),
    )
    _copy_tokenizer(Path(tokenizer).expanduser() if tokenizer else folder, text_folder, text_rows)


def to_hf(folder: Path, out: Path) -> None:
    """Write a folder that `LlavaForConditionalGeneration.from_pretrained` reads.

    Raises:
        LayoutError, ParamsError: `folder` is no LLaVA-1.5 model of the authors' code.
    """
    text_folder = folder / TEXT_MODEL if (folder / TEXT_MODEL).is_dir() else folder
    described = _read_json(text_folder / "config.json")
    check_text_config(described, text_folder / "config.json")
    image_folder = folder / IMAGE_MODEL
    if not image_folder.is_dir():
        image_folder = Path(str(described.get("mm_vision_tower")))
        if not image_folder.is_dir():
            raise LayoutError(
                f"{folder}: has no {IMAGE_MODEL}/, and its mm_vision_tower {image_folder} is no folder; put the image "
                f"model there, as {IMAGE_MODEL}/"
            )
    vision = CLIPVisionConfig.from_pretrained(image_folder)
    text, image = _read_tensors(text_folder), _read_tensors(image_folder)
    rest = load_file(text_folder / IMAGE_TOKEN_ROWS) if (text_folder / IMAGE_TOKEN_ROWS).exists() else {}
    try:
        text_rows = len(text["model.embed_tokens.weight"])
    except KeyError:
        raise LayoutError(f"{text_folder}: has no tensor model.embed_tokens.weight") from None
    all_rows = text_rows + (len(rest["lm_head.weight"]) if rest else 0)
    config = hf_config(described, vision, text_rows=text_rows, all_rows=all_rows)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.load_state_dict(join_tensors(image, text, rest, model.state_dict()), assign=True)
    add_image_token(model)
    model.save_pretrained(out)
    tokenizer = None
    if any((text_folder / name).exists() for name in TOKENIZER_FILES):
        tokenizer = load_prompt_tokenizer(str(text_folder), "FOLDER")
        if image_token_id(tokenizer) != config.image_token_index:
            raise LayoutError(
                f"{text_folder}: the tokenizer would know {IMAGE_TOKEN} as {image_token_id(tokenizer)}, the weights "
                f"know it as {config.image_token_index}; put the tokenizer of the text model there"
            )
    images = make_image_processor(
        load_image_settings(str(image_folder), "FOLDER"),
        image_size=int(str(vision.image_size)),
        pad=described.get("image_aspect_ratio") == "pad",
    )
    make_processor(tokenizer, images, patch_size=int(str(vision.patch_size))).save_pretrained(out)


def _copy_tokenizer(source: Path, target: Path, text_rows: int) -> None:
    """The tokenizer's files, without the image token: the authors' code would make a random row for it."""
    if not any((source / name).exists() for name in TOKENIZER_FILES):
        print(
            f"trainer.convert: warning: {source} has no tokenizer files; copy those of the text model to {target}",
            file=sys.stderr,
        )
        return
    for name in _COPIED:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    path = target / "tokenizer.json"
    if path.exists():
        document = _read_json(path)
        added = document.get("added_tokens") or []
        document["added_tokens"] = [
            token for token in added if not (token["content"] == IMAGE_TOKEN and token["id"] >= text_rows)
        ]
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    path = target / "tokenizer_config.json"
    if path.exists():
        document = _read_json(path)
        decoder = document.get("added_tokens_decoder") or {}
        decoder.pop(next((key for key, token in decoder.items() if token["content"] == IMAGE_TOKEN), ""), None)
        # What a LlavaProcessor notes of its image token.
        for key in ("image_token", "processor_class", "extra_special_tokens", "model_specific_special_tokens"):
            document.pop(key, None)
        _write_json(path, document)


def _restore_dtypes(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Give each part the dtype it has in the files: transformers loads all in one, and float32 loses nothing.

    A part is told by what its tensors' names have in all versions of transformers.
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
                name = next((name for name in file.keys() if part in name), None)  # noqa: SIM118, it is no dict
                if name is not None:
                    dtypes[part] = file.get_tensor(name).dtype
    for part, dtype in dtypes.items():
        parts[part].to(dtype)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder, safetensors or torch's own, in one file or several."""
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob(pattern)):
            tensors |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        if tensors:
            return tensors
    raise LayoutError(f"{folder}: has no weights; expected model*.safetensors or pytorch_model*.bin")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise LayoutError(
            f"{path}: is missing; give a folder of the LLaVA authors' code, or one of --to llava"
        ) from None
    except ValueError:
        raise LayoutError(f"{path}: is no JSON") from None
    if not isinstance(document, dict):
        raise LayoutError(f"{path}: expected a JSON object")
    return document


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _fail(code: int, message: str) -> int:
    print(f"trainer.convert: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
