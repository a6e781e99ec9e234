"""The validated, frozen sections of a params file; `params_file` reads the file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]
Folders = Name | Annotated[list[Name], Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TrainInputParams(_Section):
    """Section `train_input`: training data and batches; the other keys are arguments of `loaders.create_dataloader`.

    Attributes:
        data_dir: one or several folders written by `create_hdf5_dataset`; either this or `mixture`.
        mixture: folder → weight, see `loaders.mixture.MixtureOrder`.
        img_data_dir: the folder that image paths are relative to, or one for each data dir.
        image_size: side of an image in pixels; must match the data; None uses that of the data.
        batch_size: rows per optimizer step, over all processes and micro-batches.
        micro_batch_size: rows per forward pass of one process; None uses its whole share. Gradients of micro-batches
            are accumulated.
        trim_to: trim each micro-batch to its longest row, rounded up to a multiple of this.
    """

    data_dir: Folders | None = None
    mixture: Annotated[dict[Name, PositiveFloat], Field(min_length=1)] | None = None
    img_data_dir: Folders
    image_size: PositiveInt | None = None
    image_aspect_ratio: Literal["square", "pad"] = "square"
    batch_size: PositiveInt
    micro_batch_size: PositiveInt | None = None
    shuffle: bool = True
    shuffle_seed: Annotated[int, Field(ge=0)] = 0
    shuffle_window: PositiveInt = 32
    group_by_modality: bool = False
    drop_last: bool = True
    trim_to: PositiveInt | None = None
    num_workers: Annotated[int, Field(ge=0)] = 0
    prefetch_factor: PositiveInt | None = None
    on_image_error: Literal["raise", "blank"] = "raise"
    verify: bool = False

    @model_validator(mode="after")
    def _check_train_input(self) -> TrainInputParams:
        if (self.data_dir is None) == (self.mixture is None):
            raise ValueError("give either data_dir, or mixture with a weight for each folder")
        if self.prefetch_factor is not None and not self.num_workers:
            raise ValueError("prefetch_factor needs num_workers of at least 1")
        return self

    @property
    def folders(self) -> list[str]:
        """All data dirs."""
        if self.mixture is not None:
            return list(self.mixture)
        return [self.data_dir] if isinstance(self.data_dir, str) else list(self.data_dir or [])


class EvalInputParams(_Section):
    """Section `eval_input`: evaluation data; keys that are None default to those of `train_input`."""

    data_dir: Folders
    img_data_dir: Folders | None = None
    micro_batch_size: PositiveInt | None = None
    num_workers: Annotated[int, Field(ge=0)] | None = None

    @property
    def folders(self) -> list[str]:
        """All data dirs."""
        return [self.data_dir] if isinstance(self.data_dir, str) else list(self.data_dir)


class _PartOfModel(_Section):
    """Either a pretrained model, or the sizes of a model with random weights."""

    pretrained: Name | None = None

    @property
    def sizes(self) -> dict[str, int | float]:
        """The given sizes, by their names in the transformers config."""
        names = set(type(self).model_fields) - {"pretrained", "tokenizer", "model_type"}
        return {name: value for name, value in self.model_dump(include=names).items() if value is not None}

    @model_validator(mode="after")
    def _check_sizes(self) -> _PartOfModel:
        fields = type(self).model_fields
        optional = {"pretrained", "tokenizer", "model_type", "num_key_value_heads", "head_dim"}
        optional |= {"max_position_embeddings", "rope_theta"}
        missing = [name for name in fields if name not in optional and getattr(self, name) is None]
        if self.pretrained is None and missing:
            raise ValueError(f"give pretrained, or the sizes of a model with random weights; missing: {missing[0]}")
        return self


class ImageModelParams(_PartOfModel):
    """A CLIP vision model."""

    hidden_size: PositiveInt | None = None
    intermediate_size: PositiveInt | None = None
    num_hidden_layers: PositiveInt | None = None
    num_attention_heads: PositiveInt | None = None
    image_size: PositiveInt | None = None
    patch_size: PositiveInt | None = None


class TextModelParams(_PartOfModel):
    """A language model of transformers.

    Attributes:
        tokenizer: folder or hub name of its tokenizer files; defaults to `pretrained`.
        model_type: transformers model type for random weights (`qwen2`, `phi3`, `gemma`, `mistral`); None is `llama`.
    """

    tokenizer: Name | None = None
    model_type: Name | None = None
    vocab_size: PositiveInt | None = None
    hidden_size: PositiveInt | None = None
    intermediate_size: PositiveInt | None = None
    num_hidden_layers: PositiveInt | None = None
    num_attention_heads: PositiveInt | None = None
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    max_position_embeddings: PositiveInt | None = None
    rope_theta: PositiveFloat | None = None

    @model_validator(mode="after")
    def _check_model_type(self) -> TextModelParams:
        if self.pretrained is not None and self.model_type is not None:
            raise ValueError(
                "model_type is only for random weights, since pretrained models have their own; remove model_type"
            )
        return self


class ProjectorParams(_Section):
    """Two linear layers with a GELU between them: the projector of LLaVA-1.5."""

    type: Literal["mlp2x_gelu"] = "mlp2x_gelu"


class ModelParams(_Section):
    """Section `model`: the model and its trainable parameters.

    Attributes:
        image_start_idx: position of the first image slot; must match the data; None uses that of the data.
        freeze: regular expressions; a parameter is frozen if `re.search` finds one in its name.
        image_feature_select_layer_idx: index into the hidden states of the vision model; 0 is the embedding layer.
        attention: attention implementation of transformers, or "sdpa_by_sample", see `trainer.segment_attention`.
    """

    image_start_idx: Annotated[int, Field(ge=0)] | None = None
    freeze: list[Name] = []
    image_feature_select_layer_idx: int = -2
    attention: Literal["sdpa", "sdpa_by_sample", "eager", "flash_attention_2"] = "sdpa"
    image_model: ImageModelParams
    text_model: TextModelParams
    projector: ProjectorParams = ProjectorParams()


class OptimizerParams(_Section):
    """Section `optimizer`: AdamW and its learning rate schedule."""

    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    lr_scheduler: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    warmup_ratio: Share = 0.03
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: PositiveFloat = 1e-8
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0


class RunParams(_Section):
    """Section `runconfig`: duration, precision, logging and checkpoints.

    Attributes:
        max_steps: number of optimizer steps; None trains for `num_epochs`.
        checkpoint_steps: steps between checkpoints; None writes only the one at the end, which is always written.
        keep_checkpoints: number of newest checkpoints to keep; None keeps all.
        eval_steps: steps between evaluations on `eval_input`; None never evaluates.
        load_checkpoint_states: "model" loads only the weights of `--checkpoint_path` and starts a new run; "all" also
            loads optimizer and loader state and resumes that run.
        precision: precision of the computation; weights are float32.
        training_arguments: more fields of `transformers.TrainingArguments`, such as `deepspeed` or `fsdp`.
    """

    max_steps: PositiveInt | None = None
    num_epochs: PositiveFloat = 1.0
    checkpoint_steps: PositiveInt | None = None
    keep_checkpoints: PositiveInt | None = None
    log_steps: PositiveInt = 10
    eval_steps: PositiveInt | None = None
    load_checkpoint_states: Literal["model", "all"] = "model"
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    gradient_checkpointing: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    training_arguments: dict[str, Any] = {}


class Params(_Section):
    """A whole params file."""

    train_input: TrainInputParams
    eval_input: EvalInputParams | None = None
    model: ModelParams
    optimizer: OptimizerParams
    runconfig: RunParams

    @model_validator(mode="after")
    def _check_eval_input(self) -> Params:
        if self.runconfig.eval_steps is not None and self.eval_input is None:
            raise ValueError("runconfig.eval_steps needs the section eval_input, with the data_dir to evaluate on")
        return self

    @model_validator(mode="after")
    def _check_attention(self) -> Params:
        if self.model.attention == "flash_attention_2" and self.runconfig.precision == "fp32":
            raise ValueError(
                "model.attention flash_attention_2 computes in half precision only; give runconfig.precision bf16 or "
                "fp16, or model.attention sdpa"
            )
        return self
