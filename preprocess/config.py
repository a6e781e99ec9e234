"""YAML and `section.key=value` overrides → a validated, frozen `Config`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from preprocess.yaml_values import read_yaml

# In an installed package the folder sits beside this file; in a checkout it is configs/ at the top.
SHIPPED_CONFIG_DIRS = (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs")


class ConfigError(ValueError):
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


def find_config(name: str) -> Path:
    """The file that `--config NAME` means: a path, else a config that ships with the package.

    Raises:
        ConfigError: there is neither; the message lists the shipped ones.
    """
    try:
        path = Path(name).expanduser()
    except RuntimeError:
        path = Path(name)
    if path.is_file():
        return path
    shipped = sorted(p for folder in SHIPPED_CONFIG_DIRS if folder.is_dir() for p in folder.glob("*preproc*.yaml"))
    shipped += sorted(p for folder in SHIPPED_CONFIG_DIRS if folder.is_dir() for p in folder.glob("quickstart.yaml"))
    for candidate in shipped:
        if name in (candidate.name, candidate.stem):
            return candidate
    names = [p.name for p in shipped]
    raise ConfigError(
        f"--config {name}: there is no such file, and the configs that ship with the package are "
        f"{', '.join(names)}{did_you_mean(name, names)}; give a path or one of these names"
    )


def load_config(name: str, overrides: Iterable[str] = ()) -> Config:
    """Read and validate a config.

    Args:
        name: path of a YAML file, or the name of a shipped config.
        overrides: `section.key=value` strings. The value of a key that takes a text or a path is taken as it stands
            (but for an empty one, `null`, and quotes around it); others are read as YAML.

    Raises:
        ConfigError: unreadable file, YAML that does not parse, unknown or duplicate keys, wrong types or values.
    """
    path = find_config(name)
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = read_yaml(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error}); give a readable YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML: {_one_line(error, path)}") from None
    if not isinstance(values, dict) or not all(isinstance(v, dict) or v is None for v in values.values()):
        raise ConfigError(f"{path}: expected the sections setup, processor and dataset, each with its keys")
    values = {section: dict(keys or {}) for section, keys in values.items()}
    given: dict[str, str] = {}
    for override in overrides:
        key = override.partition("=")[0]
        given[key] = override  # of several for one key the last counts, as wrapper scripts expect
        _apply_override(values, override)
    return build_config(values, source=str(path), config_dir=path.parent, arguments=given)


def build_config(
    values: dict[str, dict[str, Any]], source: str, config_dir: Path, arguments: Mapping[str, str] | None = None
) -> Config:
    """Validate plain values; `${config_dir}` in strings becomes the folder of the config file.

    Args:
        values: section → key → value.
        source: where they come from, for messages.
        config_dir: the folder of the config file.
        arguments: key → the argument that gave its value, of those that do not come from `source`.

    Raises:
        ConfigError: the first thing that is wrong, with its key.
    """
    folder = str(config_dir.resolve())
    expanded = {
        section: {
            key: value.replace("${config_dir}", folder) if isinstance(value, str) else value
            for key, value in keys.items()
        }
        for section, keys in values.items()
    }
    try:
        return Config.model_validate(expanded)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"][:3])
        if arguments and key in arguments:
            source = f"argument {arguments[key]!r}"
        raise ConfigError(f"{source}: {_explain(error, expanded)}") from None


def _apply_override(values: dict[str, dict[str, Any]], override: str) -> None:
    key, equals, text = override.partition("=")
    section, *path = key.split(".")
    if not equals or not section or not path or not all(path):
        raise ConfigError(
            f"argument {override!r}: expected section.key=value, such as processor.max_sequence_length=4096"
        )
    try:
        if _takes_text([section, *path]) and text[:1] not in ("'", '"'):
            value = None if text in ("", "null") else text
        else:
            value = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"argument {override!r}: the value is not valid YAML: {_one_line(error)}") from None
    keys = values.setdefault(section, {})
    for part in path[:-1]:
        inner = keys.get(part)
        keys[part] = keys = dict(inner) if isinstance(inner, dict) else {}
    keys[path[-1]] = value


def _takes_text(path: Sequence[str]) -> bool:
    """Whether a key takes a text or a path: YAML would cut `a #2` short, and make a number of the folder `2024`."""
    model: Any = Config
    for name in path:
        fields = getattr(model, "model_fields", {})
        if name not in fields:
            return False
        model = fields[name].annotation
    kinds = get_args(model) or (model,)
    bare = {get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds}
    return bare <= {str, Path, type(None)}


def _explain(error: ValidationError, values: dict[str, Any]) -> str:
    """The first problem of a pydantic error as a sentence about the key."""
    first = error.errors()[0]
    where = tuple(str(part) for part in first["loc"])
    key = ".".join(where[:3])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest_key(where)}"
    if first["type"] == "missing":
        return f"{key} is missing; add it{' (a section of keys)' if len(where) == 1 else ''}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{key}: {message}"
    found = values
    for part in where[:3]:
        found = found.get(part) if isinstance(found, dict) else None  # type: ignore[assignment]
    message = message[0].lower() + message[1:]
    return f"{key} is {found!r} ({type(found).__name__}): {message.replace('input should', 'it should')}"


def known_keys() -> dict[str, list[str]]:
    """Section → its keys."""
    return {
        name: list(field.annotation.model_fields)  # type: ignore[union-attr]
        for name, field in Config.model_fields.items()
    }


def _nearest_key(where: tuple[str, ...]) -> str:
    keys = known_keys()
    if len(where) == 1:
        return f"{did_you_mean(where[0], keys)}; the sections are {', '.join(keys)}"
    section, name = where[0], where[-1]
    if len(where) > 2:
        return f"; the keys of {'.'.join(where[:-1])} are {', '.join(DaskConfig.model_fields)}"
    for other, names in keys.items():
        if other != section and name in names:
            return f" (did you mean {other}.{name}?)"
    return did_you_mean(name, keys[section], prefix=f"{section}.") or (
        f"; the keys of {section} are {', '.join(keys[section])}"
    )


def did_you_mean(found: str, known: Iterable[str], prefix: str = "") -> str:
    """` (did you mean X?)` for the nearest known name, or nothing where none is near."""
    nearest = difflib.get_close_matches(found, list(known), n=1, cutoff=0.5)
    return f" (did you mean {prefix}{nearest[0]}?)" if nearest else ""


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


def _one_line(error: object, path: Path | None = None) -> str:
    said = " ".join(str(error).split())
    return said.replace('"<unicode string>"', str(path) if path else "it")
