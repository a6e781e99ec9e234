"""Read YAML and `section.key=value` overrides into a validated, frozen `Config`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from preprocess.config import ConfigError, DatasetConfig, ProcessorConfig, Section, as_path
from preprocess.settings import (
    SettingsError,
    as_sections,
    build_settings,
    find_file,
    read_sections,
    read_settings,
    set_key,
)

_SHIPPED = ("*preproc*.yaml", "quickstart.yaml")


class DaskConfig(Section):
    """Section `setup.dask`: address of the Dask scheduler; None starts a cluster on this machine."""

    scheduler_address: Annotated[str, Field(min_length=1)] | None = None


class SetupConfig(Section):
    """Section `setup`: input, output, and how the work is divided."""

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
        return as_path(value)


class Config(Section):
    """The whole configuration of one run of `create_hdf5_dataset`."""

    setup: SetupConfig
    processor: ProcessorConfig
    dataset: DatasetConfig

    @model_validator(mode="after")
    def _rows_hold_the_images(self) -> Config:
        processor, images = self.processor, self.dataset.max_images
        most = processor.max_images_per_row
        if most is not None and processor.packing == "none":
            raise ValueError(
                f"processor.max_images_per_row is {most}, but with processor.packing none a row holds one sample; "
                "remove it, or set dataset.max_images or processor.packing best_fit"
            )
        if most is not None and most < images:
            raise ValueError(
                f"processor.max_images_per_row is {most}, but dataset.max_images allows {images} in one record; "
                f"set it to at least {images}"
            )
        return self

    @property
    def has_free_rows(self) -> bool:
        """Whether images are at their place in the text; otherwise all rows have the image slots at the same place."""
        return self.processor.packing != "none" or self.dataset.max_images > 1

    def row_keys(self) -> dict[str, Any]:
        """Return the keys that determine rows and their order, as plain JSON, without folders, processes and limits.

        The tokenizer's name is omitted too: ids depend on its content, which has its own digest.
        """
        setup = self.setup.model_dump(include={"samples_per_shard", "shuffle", "seed"})
        if not self.setup.shuffle:
            setup.pop("seed")
        processor = self.processor.model_dump(exclude={"tokenizer_type"})
        dataset = self.dataset.model_dump(exclude={"image_dir", "chat_template"})
        return {"setup": setup, "processor": processor, "dataset": dataset}

    def as_json(self) -> dict[str, Any]:
        """Return the whole config as plain JSON types."""
        return self.model_dump(mode="json")

    def stored_keys(self) -> dict[str, Any]:
        """Return the keys of `data_params.json` as plain JSON types: without the output folder and the workers."""
        return self.model_dump(mode="json", exclude={"setup": {"output_dir", "processes", "engine", "dask"}})


def read_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """Read and validate a config.

    Args:
        name: path of a YAML file, or the name of a shipped config.
        overrides: `section.key=value` strings, see `settings.read_settings`.

    Raises:
        ConfigError: unreadable file, YAML that does not parse, unknown or duplicate keys, wrong types or values.
    """
    try:
        path = find_file(name, "--config", *_SHIPPED)
        return read_settings(Config, path, overrides, example="processor.max_sequence_length=4096")
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def load_config(source: str | Path | Mapping[str, Mapping[str, Any]], **overrides: Any) -> Config:
    """Load and validate a config from Python.

    Args:
        source: path of a YAML file, the name of a shipped config, or a mapping section → key → value.
        overrides: values as `section__key=value`, such as `setup__processes=2`; paths may be `Path` objects.

    Raises:
        ConfigError: see `read_config`.
    """
    try:
        if isinstance(source, Mapping):
            name, folder = "the given config", Path.cwd()
            values: dict[str, Any] = dict(as_sections(Config, source, name))
        elif isinstance(source, str | Path):
            path = find_file(os.fspath(source), "config", *_SHIPPED)
            values, name, folder = dict(read_sections(Config, path)), str(path), path.parent
        else:
            raise SettingsError(f"config is {source!r}, expected a path, the name of a shipped config, or a dict")
        given = {}
        for argument, value in overrides.items():
            keys = argument.split("__")
            if len(keys) < 2 or not all(keys):
                raise SettingsError(f"argument {argument}: expected section__key=value, such as setup__processes=2")
            given[".".join(keys)] = f"{argument}={value!r}"
            set_key(values, keys, value, given[".".join(keys)])
        return build_settings(Config, _plain(values), name, folder, given)
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def _plain(value: Any) -> Any:
    """Convert paths to text, as in a YAML file."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def build_config(values: Mapping[str, Mapping[str, Any]], source: str, config_dir: Path) -> Config:
    """Validate plain values; `${config_dir}` in strings is replaced by the folder of the config file.

    Args:
        values: section → key → value.
        source: name of the source, for messages.
        config_dir: the folder of the config file.

    Raises:
        ConfigError: the first problem, with its key.
    """
    try:
        return build_settings(Config, values, source, config_dir)
    except SettingsError as error:
        raise ConfigError(str(error)) from None
