"""Convert params to `transformers.TrainingArguments`."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from preprocess.settings import did_you_mean, one_line
from trainer.params import Params
from trainer.params_file import ParamsError

# Fields that the loader or this package sets, and the key that sets them; a value in the params would be ignored.
_LOADER = "train_input"
_CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing")
_SET_BY = {
    **dict.fromkeys(_CHECKPOINTING, "runconfig.gradient_checkpointing"),
    "max_steps": "runconfig.max_steps",
    "num_train_epochs": "runconfig.num_epochs",
    "warmup_steps": "optimizer.warmup_ratio",
    "eval_strategy": "runconfig.eval_steps",
    "save_strategy": "runconfig.checkpoint_steps",
    "save_total_limit": "runconfig.keep_checkpoints",
    "per_device_eval_batch_size": "eval_input.micro_batch_size",
    "data_seed": "train_input.shuffle_seed",
    "resume_from_checkpoint": "--model_dir",
    "ignore_data_skip": _LOADER,
    "remove_unused_columns": _LOADER,
    "average_tokens_across_devices": _LOADER,
    "auto_find_batch_size": _LOADER,
    "label_smoothing_factor": _LOADER,
    "logging_nan_inf_filter": _LOADER,
    "train_sampling_strategy": "train_input.group_by_modality",
}


def make_training_arguments(params: Params, model_dir: Path, *, vision_is_trained: bool) -> TrainingArguments:
    """Build the training arguments, except the number of steps, which `set_steps` sets once the loader exists.

    With several processes, this also starts the process group.

    Args:
        params: all params.
        model_dir: folder of the checkpoints.
        vision_is_trained: whether the vision model is trained. Its last layer gets no gradient if features are taken
            from an earlier layer, so DDP must look for unused parameters.

    Raises:
        ParamsError: `runconfig.training_arguments` or the precision is invalid.
    """
    given, run, optimizer = params.train_input, params.runconfig, params.optimizer
    ours: dict[str, Any] = {
        "output_dir": str(model_dir),
        "per_device_train_batch_size": given.micro_batch_size or given.batch_size,
        "learning_rate": optimizer.learning_rate,
        "weight_decay": optimizer.weight_decay,
        "lr_scheduler_type": optimizer.lr_scheduler,
        "adam_beta1": optimizer.beta1,
        "adam_beta2": optimizer.beta2,
        "adam_epsilon": optimizer.epsilon,
        "max_grad_norm": optimizer.max_grad_norm,
        "bf16": run.precision == "bf16",
        "fp16": run.precision == "fp16",
        "logging_steps": run.log_steps,
        "save_steps": run.checkpoint_steps or sys.maxsize,
        "eval_steps": run.eval_steps,
        "seed": run.seed,
        # Without this, on a machine without GPUs, the Trainer treats every process as a single-process run.
        "use_cpu": not torch.accelerator.is_available(),
    }
    reserved = {**dict.fromkeys(ours.keys() - {"use_cpu"}, "another params key or argument"), **_SET_BY}
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    for name in run.training_arguments:
        if name in reserved:
            raise ParamsError(f"runconfig.training_arguments.{name}: is set by {reserved[name]}; remove it here")
        if name not in known:
            raise ParamsError(f"unknown key runconfig.training_arguments.{name}{did_you_mean(name, sorted(known))}")
    ours |= {
        "save_strategy": "steps",
        "eval_strategy": "no" if run.eval_steps is None else "steps",
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # the filter would hide a loss that is NaN or Inf
        "average_tokens_across_devices": True,
        "ignore_data_skip": True,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "report_to": "none",
        "log_level_replica": "error",
        "ddp_find_unused_parameters": vision_is_trained,
    }
    if run.gradient_checkpointing:
        # Renamed in a release of transformers 5.
        name = next(name for name in _CHECKPOINTING if name in known)
        # Reentrant checkpointing needs inputs with gradients; embeddings of a frozen text model have none.
        ours |= {name: True, f"{name}_kwargs": {"use_reentrant": False}}
    try:
        arguments = TrainingArguments(**{**ours, **run.training_arguments})
    except (ValueError, TypeError, ImportError) as error:
        raise ParamsError(f"runconfig: transformers rejects the values: {one_line(error)}") from None
    _ = arguments.device  # starts the process group
    if int(os.environ.get("WORLD_SIZE") or 1) != arguments.world_size:
        raise ParamsError(
            f"the environment has WORLD_SIZE {os.environ.get('WORLD_SIZE')}, but transformers sees "
            f"{arguments.world_size} process(es), so each would train separately; use torchrun or accelerate launch"
        )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one GPU per process; torchrun or accelerate starts several
    return arguments


def set_steps(arguments: TrainingArguments, params: Params, steps_per_epoch: int) -> None:
    """Set the fields that depend on the number of rows: steps, warm-up steps and micro-batches per step."""
    run, given = params.runconfig, params.train_input
    arguments.max_steps = run.max_steps or math.ceil(run.num_epochs * steps_per_epoch)
    arguments.warmup_steps = math.ceil(params.optimizer.warmup_ratio * arguments.max_steps)
    share = given.batch_size // arguments.world_size
    arguments.per_device_train_batch_size = given.micro_batch_size or share
    arguments.gradient_accumulation_steps = share // arguments.per_device_train_batch_size
