"""YAML and `section.key=value` overrides → a validated, frozen `Config`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from preprocess.config import ConfigError, DatasetConfig, ProcessorConfig, Section, as_path
from preprocess.settings import SettingsError, build_settings, find_file, read_sections, read_settings

_SHIPPED = ("*preproc*.yaml", "quickstart.yaml")


class DaskConfig(Section):
    """Which Dask cluster to use."""

    scheduler_address: Annotated[str, Field(min_length=1)] | None = None


class SetupConfig(Section):
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
                f"processor.max_images_per_row is {most}, but dataset.max_images lets one record have {images}; "
                "give a row at least as many"
            )
        return self

    @property
    def has_free_rows(self) -> bool:
        """Images stand where the text has them; else every row has its image slots at the same place."""
        return self.processor.packing != "none" or self.dataset.max_images > 1

    def row_keys(self) -> dict[str, Any]:
        """The keys that decide rows and their order, as plain JSON; folders, processes and limits are not among them.

        The tokenizer's name is left out too: what decides ids is its content, which has a digest of its own.
        """
        setup = self.setup.model_dump(include={"samples_per_shard", "shuffle", "seed"})
        if not self.setup.shuffle:
            setup.pop("seed")
        processor = self.processor.model_dump(exclude={"tokenizer_type"})
        dataset = self.dataset.model_dump(exclude={"image_dir", "chat_template"})
        return {"setup": setup, "processor": processor, "dataset": dataset}

    def as_json(self) -> dict[str, Any]:
        """The whole config as plain JSON types, as `data_params.json` shows it."""
        return self.model_dump(mode="json")


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
    """A config from Python.

    Args:
        source: path of a YAML file, the name of a shipped config, or the sections themselves: section → key → value.
        overrides: values by `section__key`, such as `setup__processes=2`; they are taken as they are, paths too.

    Raises:
        ConfigError: as `read_config`.
    """
    try:
        if isinstance(source, Mapping):
            values: dict[str, Any] = {section: dict(keys) for section, keys in source.items()}
            name, folder = "the given config", Path.cwd()
        else:
            path = find_file(os.fspath(source), "config", *_SHIPPED)
            values, name, folder = dict(read_sections(Config, path)), str(path), path.parent
        given = {}
        for argument, value in overrides.items():
            section, *keys = argument.split("__")
            if not keys:
                raise SettingsError(f"argument {argument}: expected section__key=value, such as setup__processes=2")
            target = values.setdefault(section, {})
            for part in keys[:-1]:
                target[part] = target = dict(target.get(part) or {})
            target[keys[-1]] = value
            given[argument.replace("__", ".")] = f"{argument}={value!r}"
        return build_settings(Config, _plain(values), name, folder, given)
    except SettingsError as error:
        raise ConfigError(str(error)) from None


def _plain(value: Any) -> Any:
    """Paths as text, which is what the keys of a YAML file hold."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value


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
