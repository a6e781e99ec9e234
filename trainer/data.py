"""Create the loaders from params, and read the shape of the rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from loaders import LlavaDataLoader, create_dataloader
from loaders.data_dir import DataDir, read_data_dir, require_compatible
from preprocess.templates.llava import TEMPLATES
from trainer.chat_prompt import RowTemplate
from trainer.params import ModelParams, Params, TrainInputParams
from trainer.params_file import ParamsError


@dataclass(frozen=True)
class RowShape:
    """Properties of the rows that a model must match.

    Attributes:
        image_start_idx: position of the first image slot; None for free rows (packed, or with several images).
        num_patches: slots of an image.
        image_size: side of an image in pixels.
        max_sequence_length: positions in a row.
        vocab_size: all ids are below it.
        image_starts_new_text: whether the text after an image is tokenized as a new text, as by the templates of LLaVA
            1.5.
        template: the template of all rows; None if datasets differ.
    """

    image_start_idx: int | None
    num_patches: int
    image_size: int
    max_sequence_length: int
    vocab_size: int
    image_starts_new_text: bool = True
    template: RowTemplate | None = None

    @property
    def image_end(self) -> int:
        """Position after the last image slot of fixed rows; 0 for free rows."""
        return 0 if self.image_start_idx is None else self.image_start_idx + self.num_patches


def read_row_shape(params: Params, folders: list[str]) -> RowShape:
    """Read the shape of the rows from `data_params.json`, and refuse params that contradict it.

    Raises:
        ParamsError: `model.image_start_idx` or `train_input.image_size` differs from the data.
        DataDirError: a folder is not a finished dataset, or the datasets do not match each other.
    """
    dirs = [read_data_dir(folder) for folder in folders]
    require_compatible(dirs)
    first = dirs[0]
    templates = {RowTemplate(folder.system_prompt_style, folder.system_prompt, folder.end_token) for folder in dirs}
    _refuse_other(params.model, params.train_input, first)
    return RowShape(
        first.image_start_idx,
        first.num_patches,
        first.image_size,
        first.max_sequence_length,
        first.vocab_size,
        all(folder.system_prompt_style in TEMPLATES for folder in dirs),
        templates.pop() if len(templates) == 1 else None,
    )


def _refuse_other(model: ModelParams, train_input: TrainInputParams, data: DataDir) -> None:
    if model.image_start_idx is not None and data.image_start_idx is None:
        raise ParamsError(
            f"model.image_start_idx is {model.image_start_idx}, but the rows of {data.root} are packed or hold "
            "several images, so they have no fixed image position; remove the key"
        )
    for key, given, found in (
        ("model.image_start_idx", model.image_start_idx, data.image_start_idx),
        ("train_input.image_size", train_input.image_size, data.image_size),
    ):
        if given is not None and given != found:
            raise ParamsError(
                f"{key} is {given}, but the rows of {data.root} have {found}; remove the key or correct it"
            )


def make_train_loader(params: Params, rank: int, world_size: int) -> LlavaDataLoader:
    """Create the training loader; each of its batches is this process's share of one optimizer step.

    Its position therefore counts optimizer steps, and the global batches do not depend on the number of processes or
    on the micro-batch size.

    Raises:
        ParamsError: `batch_size` is not a multiple of the number of processes, or there are fewer rows than one batch.
    """
    given = params.train_input
    if given.batch_size % world_size:
        raise ParamsError(
            f"train_input.batch_size is {given.batch_size}, expected a multiple of the {world_size} processes"
        )
    share = given.batch_size // world_size
    micro = given.micro_batch_size or share
    if share % micro:
        raise ParamsError(
            f"train_input.micro_batch_size is {micro}, expected a divisor of {share}, the rows of each process "
            f"(batch_size {given.batch_size}, {world_size} processes)"
        )
    try:
        return create_dataloader(
            data_dir=None if given.data_dir is None else given.folders,
            mixture=None if given.mixture is None else list(given.mixture.items()),
            img_data_dir=given.img_data_dir,
            batch_size=share,
            image_aspect_ratio=given.image_aspect_ratio,
            image_dtype=image_dtype(params),
            on_image_error=given.on_image_error,
            shuffle=given.shuffle,
            shuffle_seed=given.shuffle_seed,
            shuffle_window=given.shuffle_window,
            drop_last=given.drop_last,
            group_by_modality=given.group_by_modality,
            rank=rank,
            world_size=world_size,
            num_workers=given.num_workers,
            prefetch_factor=given.prefetch_factor,
            persistent_workers=given.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            verify=given.verify,
        )
    except ValueError as error:
        raise ParamsError(f"train_input: {error}") from None


def eval_folders(params: Params) -> list[str]:
    """Return the folders of `eval_input`; without it, those of `train_input`."""
    return params.train_input.folders if params.eval_input is None else params.eval_input.folders


def make_eval_loader(params: Params, rank: int, world_size: int) -> LlavaDataLoader:
    """Create the evaluation loader: every row once, in stored order.

    Raises:
        ParamsError: the loader rejects the params.
    """
    train, given = params.train_input, params.eval_input
    images = None if given is None else given.img_data_dir
    micro = (None if given is None else given.micro_batch_size) or train.micro_batch_size
    workers = None if given is None else given.num_workers
    try:
        return create_dataloader(
            data_dir=eval_folders(params),
            img_data_dir=images or train.img_data_dir,
            batch_size=micro or max(1, train.batch_size // world_size),
            image_aspect_ratio=train.image_aspect_ratio,
            image_dtype=image_dtype(params),
            on_image_error=train.on_image_error,
            shuffle=False,
            drop_last=False,
            trim_to=train.trim_to,
            rank=rank,
            world_size=world_size,
            num_workers=train.num_workers if workers is None else workers,
            verify=train.verify,
        )
    except ValueError as error:
        raise ParamsError(f"{'train_input' if given is None else 'eval_input'}: {error}") from None


def image_dtype(params: Params) -> torch.dtype:
    """Return the dtype of pixels: float16, or float32 if `runconfig.precision` is fp32."""
    return torch.float32 if params.runconfig.precision == "fp32" else torch.float16
