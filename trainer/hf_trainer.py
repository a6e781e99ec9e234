"""Adapt the Hugging Face Trainer to the batches, checkpoints and metrics of this project."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from loaders import LlavaDataLoader
from trainer.batch_stream import BatchStream, MicroBatch
from trainer.checkpoints import complete, prune


class LossError(RuntimeError):
    """The loss is NaN or Inf; the message is one sentence for the user."""


class LlavaTrainer(Trainer):
    """`transformers.Trainer` for `LlavaForRows` and the batches of `loaders`.

    In addition to the Trainer's values it logs `data_wait`: the share of step time, since the last log, that the
    logging process spent waiting for the loader. Step time covers loading, forward, backward and update, but not
    logging, evaluation and checkpoints.
    """

    def __init__(
        self,
        *,
        stream: BatchStream | None = None,
        eval_loader: LlavaDataLoader | None = None,
        steps_per_epoch: int = 1,
        keep_checkpoints: int | None = None,
        **options: Any,
    ) -> None:
        """Create a trainer.

        Args:
            stream: training data.
            eval_loader: evaluation data.
            steps_per_epoch: optimizer steps in one pass over the training data.
            keep_checkpoints: number of newest checkpoints to keep; None keeps all.
            options: arguments of `Trainer`.
        """
        # The Trainer only checks that there is a dataset; batches come from the loader.
        super().__init__(eval_dataset=None if eval_loader is None else eval_loader.dataset, **options)
        self._stream = stream
        self._eval_loader = eval_loader
        self._clock = _StepClock(stream, steps_per_epoch)
        self.add_callback(self._clock)
        if stream is not None:
            self.add_callback(_CheckpointCompleter(stream, self, keep_checkpoints))
        self._parameters = sum(parameter.numel() for parameter in options["model"].parameters())
        self._evaluated = torch.zeros(2, dtype=torch.float64)

    def get_train_dataloader(self) -> Any:
        """Return the stream, not prepared by accelerate, since the loader already shares rows among processes."""
        return self._stream

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the evaluation loader."""
        return self._eval_loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[MicroBatch], num_batches: int, device: torch.device
    ) -> tuple[list[MicroBatch], Tensor]:
        """Return the micro-batches of one step and the number of supervised labels in them over all processes."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        counts = torch.stack([batch["loss_mask"].sum() for batch in batches]).sum().to(device)
        return batches, self.accelerator.reduce(counts, reduction="sum")

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """Run one forward and backward pass.

        Raises:
            LossError: the loss is NaN or Inf; the weights have not been updated with it.
        """
        loss = super().training_step(*args, **options)
        if not torch.isfinite(loss):
            raise LossError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; lower optimizer.learning_rate "
                "or give runconfig.precision bf16 or fp32, and start again in another --model_dir, from the last "
                "checkpoint (--checkpoint_path) if there is one"
            )
        return loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, None, None]:
        """Add up the losses of one batch; the Trainer would average batch means regardless of their label counts."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = model(**self._prepare_inputs(inputs), num_items_in_batch=1).loss
        self._evaluated += torch.tensor([loss.item(), inputs["loss_mask"].sum().item()], dtype=torch.float64)
        return None, None, None

    def evaluation_loop(self, *args: Any, **options: Any) -> EvalLoopOutput:
        """Evaluate; `eval_loss` is the mean over all supervised labels, and `eval_tokens` is their number."""
        self._evaluated.zero_()
        output = super().evaluation_loop(*args, **options)
        total, tokens = _sum_over_processes(self._evaluated)
        loss = total / max(tokens, 1)
        metrics = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "tokens": int(tokens)}
        return output._replace(metrics={f"eval_{name}": value for name, value in metrics.items()})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log values, adding `data_wait` when the loss is logged."""
        if "loss" in logs:
            logs["data_wait"] = self._clock.waiting_share()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return the usual estimate of 6 operations per parameter and position; the Trainer's needs `input_ids`."""
        return int(6 * self._parameters * inputs["text_input_ids"].numel())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights only with FSDP; otherwise `from_pretrained` has already loaded them.

        The Trainer expects parameter names in the file. In LLaVA folders the saved names differ, so it would load
        nothing and only print a warning. FSDP checkpoints are separate files with parameter names.
        """
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


class _StepClock(TrainerCallback):
    """Measures step time, and corrects the epoch, since the Trainer treats a whole run as one epoch."""

    def __init__(self, stream: BatchStream | None, steps_per_epoch: int) -> None:
        self._stream = stream
        self._steps_per_epoch = steps_per_epoch
        self._began = 0.0
        self._worked = 0.0
        self._reported = (0.0, 0.0)  # waited, worked

    def on_step_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._worked += time.perf_counter() - self._began
        state.epoch = state.global_step / self._steps_per_epoch

    def waiting_share(self) -> float:
        """Return the share of step time spent waiting since the last call."""
        waited = 0.0 if self._stream is None else self._stream.waited
        before, self._reported = self._reported, (waited, self._worked)
        waited, worked = waited - before[0], self._worked - before[1]
        return waited / (waited + worked) if waited + worked else 0.0


class _CheckpointCompleter(TrainerCallback):
    """Completes a checkpoint with the loader state after all processes have written their parts."""

    def __init__(self, stream: BatchStream, trainer: LlavaTrainer, keep: int | None) -> None:
        self._stream, self._trainer, self._keep = stream, trainer, keep

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir))
            complete(folder / f"checkpoint-{state.global_step}", self._stream.state_dict())
            if self._keep is not None:
                prune(folder, self._keep)


def _sum_over_processes(values: Tensor) -> list[float]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gathered: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, values.tolist())
        return [sum(column) for column in zip(*gathered, strict=True)]
    return list(values.tolist())
