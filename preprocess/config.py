"""YAML and `section.key=value` overrides → a validated, frozen `Config`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from preprocess.settings import SettingsError, build_settings, find_file, read_settings


class ConfigError(SettingsError):
    """The config, an override or an argument is wrong; the message is one sentence for the user."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DaskConfig(_Section):
    """Which Dask cluster to use."""

    scheduler_address: Annotated[str, Field(min_length=1)] | None = None


class SetupConfig(_Section):
    """Where the data is, where it goes, how the work is cut."""

    input_dir: Path
    output_dir: Path
    processes: Annotated[int, Field(ge=1)] | None = None
    samples_per_shard: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    shuffle: bool = True
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    verify: Literal["sampled", "full"] = "sampled"
    engine: Literal["local", "dask"] = "local"
    dask: DaskConfig = DaskConfig()

    @field_validator("input_dir", "output_dir", mode="before")
    @classmethod
    def _expand(cls, value: object) -> object:
        if value is None:
            raise ValueError("it is empty, expected a path")
        return _as_path(value)


class ProcessorConfig(_Section):
    """The tokenizer and the fixed length of a row, in positions."""

    tokenizer_type: Annotated[str, Field(min_length=1)]
    max_sequence_length: Annotated[int, Field(ge=2, le=2**24)] = 2048
    overflow: Literal["truncate", "reject"] = "truncate"


class DatasetConfig(_Section):
    """The records, the template they are rendered with, and their images."""

    system_prompt_style: str
    image_dir: Path | None = None
    check_images: Literal["none", "exists", "decode"] = "exists"
    image_size: Annotated[int, Field(ge=1, le=2**14)] = 336
    patch_size: Annotated[int, Field(ge=1, le=2**14)] = 14
    num_patches: Annotated[int, Field(ge=1)] = 0  # 0 is replaced by the computed number below
    image_key: Annotated[str, Field(min_length=1)] = "image"
    image_token: Annotated[str, Field(min_length=1)] = "<image>"
    multi_turn_key: Annotated[str, Field(min_length=1)] = "conversations"
    multi_turn_content_key: Annotated[str, Field(min_length=1)] = "value"
    role_key: Annotated[str, Field(min_length=1)] = "from"
    append_eos: bool = False
    use_ftfy: bool = False
    empty_answer: Literal["reject", "drop_round", "keep"] = "drop_round"

    @field_validator("image_dir", mode="before")
    @classmethod
    def _expand(cls, value: object) -> object:
        return _as_path(value)

    @model_validator(mode="after")
    def _keys_are_different(self) -> DatasetConfig:
        for one, other in (("image_key", "multi_turn_key"), ("role_key", "multi_turn_content_key")):
            if getattr(self, one) == getattr(self, other):
                raise ValueError(f"{one} and {other} are both {getattr(self, one)!r}; they name different things")
        return self

    @model_validator(mode="before")
    @classmethod
    def _compute_num_patches(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        size, patch = values.get("image_size", 336), values.get("patch_size", 14)
        if not _is_positive_int(size) or not _is_positive_int(patch):
            return values  # the fields' own checks say what is wrong
        if size % patch:
            raise ValueError(f"image_size is {size}, which patch_size {patch} does not divide; give sizes that fit")
        computed = (size // patch) ** 2
        given = values.get("num_patches")
        if given is not None and _is_positive_int(given) and given != computed:
            raise ValueError(
                f"num_patches is {given}, but image_size {size} and patch_size {patch} make {computed}; "
                "leave num_patches out or correct it"
            )
        return values if given is not None else {**values, "num_patches": computed}


class Config(_Section):
    """The whole configuration of one run of `create_hdf5_dataset`."""

    setup: SetupConfig
    processor: ProcessorConfig
    dataset: DatasetConfig

    def row_keys(self) -> dict[str, Any]:
        """The keys that decide rows and their order, as plain JSON; folders, processes and limits are not among them.

        The tokenizer's name is left out too: what decides ids is its content, which has a digest of its own.
        """
        setup = self.setup.model_dump(include={"samples_per_shard", "shuffle", "seed"})
        if not self.setup.shuffle:
            setup.pop("seed")
        processor = self.processor.model_dump(exclude={"tokenizer_type"})
        dataset = self.dataset.model_dump(exclude={"image_dir"})
        return {"setup": setup, "processor": processor, "dataset": dataset}

    def as_json(self) -> dict[str, Any]:
        """The whole config as plain JSON types, as `data_params.json` shows it."""
        return self.model_dump(mode="json")


def load_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """Read and validate a config.

    Args:
        name: path of a YAML file, or the name of a shipped config.
        overrides: `section.key=value` strings, see `settings.read_settings`.

    Raises:
        ConfigError: unreadable file, YAML that does not parse, unknown or duplicate keys, wrong types or values.
    """
    try:
        path = find_file(name, "--config", "*preproc*.yaml", "quickstart.yaml")
        return read_settings(Config, path, overrides, example="processor.max_sequence_length=4096")
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def build_config(values: Mapping[str, Mapping[str, Any]], source: str, config_dir: Path) -> Config:
    """Validate plain values; `${config_dir}` in strings becomes the folder of the config file.

    Args:
        values: section → key → value.
        source: where they come from, for messages.
        config_dir: the folder of the config file.

    Raises:
        ConfigError: the first thing that is wrong, with its key.
    """
    try:
        return build_settings(Config, values, source, config_dir)
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def _as_path(value: object) -> object:
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError(f"it is {value!r}, expected a path")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"it is {value!r}, and there is no such home folder; give the path itself") from None


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
