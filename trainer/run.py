"""`python -m trainer.run`: the command line, and the steps of training and evaluation."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerState, set_seed

from loaders import DataDirError, ImageError, ShardError
from loaders.dataloader import OtherOrderError
from preprocess.settings import one_line
from trainer.arguments import make_training_arguments, set_steps
from trainer.batch_stream import BatchStream
from trainer.build import build_model, freeze, load_checkpoint
from trainer.checkpoints import (
    DamagedError,
    check,
    finish,
    has_finished,
    is_checkpoint,
    is_finished,
    mark_newer_incomplete,
    newest_undamaged,
    read_state,
    refuse_other_params,
    step_of,
    write_params,
)
from trainer.data import RowShape, eval_folders, make_eval_loader, make_train_loader, read_row_shape
from trainer.hf_trainer import LlavaTrainer, LossError
from trainer.memory import describe_memory_error
from trainer.model import LlavaForRows
from trainer.params import Params
from trainer.params_file import ParamsError, load_params
from trainer.pretrained import load_image_settings, quiet_transformers
from trainer.processor import find_tokenizer, make_image_processor, make_processor
from trainer.prompt_tokenizer import image_token_id

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130
# Keys of the params by the keys of a loader's state, where the names differ.
_PARAMS_OF_STATE = {"global_batch_size": "batch_size", "data": "data_dir or mixture", "weights": "mixture"}
_RESULTS = {"train": "train_results.json", "eval": "eval_results.json"}

_EPILOG = """\
Override any params key with section.key=value:
  python -m trainer.run --params params_tiny_phase1.yaml --model_dir out train_input.batch_size=16
After an interruption, run the same command again: it resumes from the last complete checkpoint, at the next batch.

Exit codes: 0 done; 1 the run failed (checkpoints are kept); 2 params, arguments or inputs are wrong; 130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    quiet_transformers()
    try:
        params = load_params(options.params, options.overrides)
        model_dir = Path(options.model_dir).expanduser()
        if options.checkpoint_path is not None and not Path(options.checkpoint_path).expanduser().is_dir():
            raise ParamsError(
                f"--checkpoint_path {options.checkpoint_path}: no such folder; give the folder of a LLaVA model"
            )
        if os.path.lexists(model_dir) and not model_dir.is_dir():
            raise ParamsError(f"--model_dir {options.model_dir}: is a file, expected a folder; give another name")
        action = train if options.mode == "train" else evaluate
        checkpoint = None if options.checkpoint_path is None else str(Path(options.checkpoint_path).expanduser())
        action(params, model_dir, checkpoint)
    except (ParamsError, DataDirError) as error:
        return _fail(WRONG_INPUT, str(error))
    except (LossError, ShardError, ImageError) as error:
        return _fail(FAILED, str(error))
    except (MemoryError, RuntimeError) as error:
        message = describe_memory_error(error)
        if message is None:
            raise
        return _fail(FAILED, message)
    except (OSError, SafetensorError) as error:
        return _fail(FAILED, f"{one_line(error)}; complete checkpoints are kept; fix this and rerun")
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted; rerun the command to resume from the last checkpoint")
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.run",
        description="Train or evaluate a LLaVA model on datasets written by create_hdf5_dataset.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mode", choices=["train", "eval"], default="train", help="train or evaluate (default train)")
    parser.add_argument(
        "--params", required=True, metavar="FILE", help="YAML file, or name of a params file shipped with the package"
    )
    parser.add_argument(
        "--model_dir", required=True, metavar="DIR", help="output folder of checkpoints and the trained model"
    )
    parser.add_argument(
        "--checkpoint_path",
        metavar="DIR",
        help="LLaVA model folder to start from or to evaluate (default: the latest checkpoint or model in --model_dir)",
    )
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override a key of the params")
    return parser


def train(params: Params, model_dir: Path, checkpoint_path: str | None) -> None:
    """Train to the end, resuming from the last complete checkpoint in the folder if there is one.

    Raises:
        ParamsError, DataDirError: params, arguments or inputs are wrong.
        LossError: the loss is NaN or Inf.
    """
    shape = read_row_shape(params, params.train_input.folders)
    resume = _checkpoint_to_resume(params, model_dir, checkpoint_path)
    weights = checkpoint_path if resume is None else str(resume)
    model, processor = _make_model(params, shape, weights)
    freeze(model, params.model.freeze)
    trains_vision = any(parameter.requires_grad for parameter in model.model.vision_tower.parameters())
    arguments = make_training_arguments(params, model_dir, vision_is_trained=trains_vision)
    loader = make_train_loader(params, arguments.process_index, arguments.world_size)
    set_steps(arguments, params, len(loader))
    stream = BatchStream(
        loader,
        micro_batch_size=params.train_input.micro_batch_size,
        trim_to=params.train_input.trim_to,
        image_end=shape.image_end,
    )
    if resume is not None:
        try:
            stream.load_state_dict(read_state(resume))
        except OtherOrderError as error:
            key = f"train_input.{_PARAMS_OF_STATE.get(error.key, error.key)}"
            values = "" if error.key in ("data", "weights") else f" ({error.saved!r}, now {error.ours!r})"
            raise ParamsError(
                f"{resume}: was saved with another {key}{values}; restore it to resume, or give another --model_dir to "
                "start a new run"
            ) from None
        except ValueError as error:
            raise ParamsError(f"{resume}: {error}") from None
    eval_loader = None
    if params.runconfig.eval_steps is not None:
        eval_shape = read_row_shape(params, eval_folders(params))
        _set_image_position(model, eval_shape)
        eval_loader = make_eval_loader(params, arguments.process_index, arguments.world_size)
    trainer = LlavaTrainer(
        model=model,
        args=arguments,
        stream=stream,
        eval_loader=eval_loader,
        steps_per_epoch=len(loader),
        keep_checkpoints=params.runconfig.keep_checkpoints,
        processing_class=processor,
    )
    first = trainer.is_world_process_zero()
    done = 0 if resume is None else step_of(resume)
    if first:
        if resume is not None and resume.parent == model_dir:
            mark_newer_incomplete(model_dir, resume)
        write_params(model_dir, params)
        print(_describe(model, params, weights, done, arguments.max_steps, len(loader)), flush=True)
    if not _is_finished(model_dir, arguments.max_steps, resume):
        if done < arguments.max_steps:
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        else:  # the run was killed after its last checkpoint
            trainer.state = TrainerState.load_from_json(str(Path(str(resume)) / "trainer_state.json"))
        trainer.save_model(str(model_dir))
        trainer.save_state()
        trainer.accelerator.wait_for_everyone()
        if first:
            finish(model_dir, arguments.max_steps)
    if first:
        print(f"{'model':<12} {model_dir}", flush=True)


def evaluate(params: Params, model_dir: Path, checkpoint_path: str | None) -> None:
    """Print loss and perplexity over all supervised labels of a dataset, and save them in the model folder.

    Raises:
        ParamsError, DataDirError: params, arguments or inputs are wrong.
    """
    folders = eval_folders(params)
    shape = read_row_shape(params, folders)
    if checkpoint_path is not None:
        _check_weights(checkpoint_path)
    weights = checkpoint_path or _trained_model(model_dir)
    model, _ = _make_model(params, shape, weights)
    arguments = make_training_arguments(params, model_dir, vision_is_trained=False)
    loader = make_eval_loader(params, arguments.process_index, arguments.world_size)
    trainer = LlavaTrainer(model=model, args=arguments, eval_loader=loader)
    trainer.remove_callback(PrinterCallback)  # the metrics are printed below
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        result = {
            "loss": metrics["eval_loss"],
            "perplexity": metrics["eval_perplexity"],
            "tokens": metrics["eval_tokens"],
            "rows": len(loader.dataset),
            "data_dir": folders,
            "weights": weights,
        }
        (model_dir / _RESULTS["eval"]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        for name, value in result.items():
            print(f"{name:<12} {', '.join(value) if isinstance(value, list) else value}")


def _checkpoint_to_resume(params: Params, model_dir: Path, checkpoint_path: str | None) -> Path | None:
    """Return the checkpoint whose weights, optimizer and loader state are resumed; None for a new run."""
    newest = _newest_undamaged(model_dir)
    if newest is not None:
        refuse_other_params(model_dir, params)
        return newest
    if checkpoint_path is None:
        return None
    if params.runconfig.load_checkpoint_states == "model":
        _check_weights(checkpoint_path)
        return None
    if not is_checkpoint(Path(checkpoint_path)):
        raise ParamsError(
            f"--checkpoint_path {checkpoint_path}: is not a complete checkpoint of a run, which "
            "runconfig.load_checkpoint_states all needs; give a folder named checkpoint-N, or set it to model"
        )
    _check_weights(checkpoint_path, weights_only=False)
    return Path(checkpoint_path)


def _trained_model(model_dir: Path) -> str:
    """Return the folder of the trained model of a run, or of its last complete checkpoint."""
    if not has_finished(model_dir):
        newest = _newest_undamaged(model_dir)
        if newest is not None:
            return str(newest)
        if not (model_dir / "config.json").exists():
            raise ParamsError(f"--model_dir {model_dir}: has no model to evaluate; give --checkpoint_path")
    _check_weights(str(model_dir))
    return str(model_dir)


def _newest_undamaged(model_dir: Path) -> Path | None:
    newest, damages = newest_undamaged(model_dir)
    for damage in damages:
        _warn(f"{damage}; {newest} is used instead")
    return newest


def _check_weights(folder: str, *, weights_only: bool = True) -> None:
    """Refuse damaged weights or, unless `weights_only`, a checkpoint with any damaged file."""
    try:
        check(Path(folder), weights_only=weights_only)
    except DamagedError as error:
        raise ParamsError(f"{error}; restore the file, or give the folder of another checkpoint") from None


def _is_finished(model_dir: Path, steps: int, resume: Path | None) -> bool:
    """Return whether the final model is already saved; a damaged one is saved again from the resumed checkpoint."""
    try:
        return is_finished(model_dir, steps)
    except DamagedError as error:
        if resume is None:
            raise ParamsError(
                f"{error}, and {model_dir} has no checkpoint to save it from again; restore the file, or give another "
                "--model_dir"
            ) from None
        _warn(f"{error}; the model is saved again from {resume}")
        return False


def _make_model(params: Params, shape: RowShape, weights: str | None) -> tuple[LlavaForRows, object]:
    """Load the model of a checkpoint or build a new one; also return the processor that is saved with it."""
    set_seed(params.runconfig.seed)
    tokenizer = find_tokenizer(params.model, weights, image_starts_new_text=shape.image_starts_new_text)
    if weights is not None:
        model = load_checkpoint(weights, params.model, shape)
    else:
        model = build_model(params.model, shape, image_token_id=image_token_id(tokenizer))
    vision: Any = model.config.vision_config
    source = params.model.image_model.pretrained if weights is None else weights
    images = make_image_processor(
        {} if source is None else load_image_settings(source, "model.image_model.pretrained"),
        image_size=vision.image_size,
        pad=params.train_input.image_aspect_ratio == "pad",
    )
    processor = make_processor(tokenizer, images, patch_size=vision.patch_size, template=shape.template)
    return model, processor


def _set_image_position(model: LlavaForRows, shape: RowShape) -> None:
    """Set the image position of the model for evaluation on fixed rows, and refuse one that differs from training."""
    found, wanted = model.image_start_idx, shape.image_start_idx
    if found is None:
        model.image_start_idx = wanted
    elif wanted not in (None, found):
        raise ParamsError(
            f"eval_input: its image slots begin at position {wanted}, those of train_input at {found}; write both "
            "datasets with the same template, or evaluate with --mode eval"
        )


def _describe(
    model: LlavaForRows, params: Params, weights: str | None, done: int, max_steps: int, steps_per_epoch: int
) -> str:
    parts = (params.model.image_model.pretrained, params.model.text_model.pretrained)
    new = " and ".join(dict.fromkeys(part or "random weights" for part in parts)) + ", with a new projector"
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    lines = {
        "starts from": new if weights is None else weights,
        "parameters": f"{total:,}, of which {trained:,} are trained",
        "steps": f"{done:,} of {max_steps:,} done, {steps_per_epoch:,} in an epoch",
    }
    return "\n".join(f"{name:<12} {value}" for name, value in lines.items())


def _warn(message: str) -> None:
    """Print a warning to stderr, in the first process only."""
    if os.environ.get("RANK", "0") == "0":
        print(f"trainer.run: warning: {message}", file=sys.stderr, flush=True)


def _fail(code: int, message: str) -> int:
    print(f"trainer.run: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
