"""The config keys that determine the sample of a record."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from preprocess.settings import SettingsError
from preprocess.square_images import AspectRatio

# Formats of records; see docs/config.md.
RecordFormat = Literal["llava", "sharegpt", "messages"]


class ConfigError(SettingsError):
    """The config, an override or an argument is wrong; the message is one sentence for the user."""


class Section(BaseModel):
    """A section of the config; unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ProcessorConfig(Section):
    """The tokenizer and the fixed length of a row, in positions."""

    tokenizer_type: Annotated[str, Field(min_length=1)]
    max_sequence_length: Annotated[int, Field(ge=2, le=2**24)] = 2048
    overflow: Literal["truncate", "reject"] = "truncate"
    packing: Literal["none", "best_fit"] = "none"
    max_images_per_row: Annotated[int, Field(ge=1)] | None = None


class DatasetConfig(Section):
    """The records, the template they are rendered with, and their images."""

    system_prompt_style: str
    chat_template: Path | None = None
    chat_template_date: date | None = None
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
    record_format: Literal["auto", "llava", "sharegpt", "messages"] = "auto"
    roles: dict[str, Literal["human", "gpt", "system"]] = {}
    max_images: Annotated[int, Field(ge=1)] = 1
    system_prompt: str | None = None
    append_eos: bool = False
    end_token: Annotated[str, Field(min_length=1)] | None = None
    use_ftfy: bool = False
    empty_answer: Literal["reject", "drop_round", "keep"] | None = None
    store_images: Literal["path", "encoded", "pixels"] = "path"
    image_aspect_ratio: AspectRatio | None = None

    @field_validator("image_dir", "chat_template", mode="before")
    @classmethod
    def _expand(cls, value: object) -> object:
        return as_path(value)

    @field_validator("chat_template_date", mode="before")
    @classmethod
    def _as_date(cls, value: object) -> object:
        try:
            return date.fromisoformat(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError(f"it is {value!r}, expected a date such as 2024-07-26") from None

    @model_validator(mode="before")
    @classmethod
    def _stored_images_are_decoded(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("store_images", "path") not in ("encoded", "pixels"):
            return values
        check = values.get("check_images", "decode")
        if check != "decode":
            raise ValueError(
                f"check_images is {check!r}, but store_images {values['store_images']!r} decodes every image; "
                "remove check_images, or set it to decode"
            )
        return {**values, "check_images": "decode"}

    @model_validator(mode="after")
    def _system_prompt_has_no_image(self) -> DatasetConfig:
        if self.system_prompt is not None and self.image_token in self.system_prompt:
            raise ValueError(
                f"system_prompt contains the image_token {self.image_token!r}, but only questions may contain images; "
                "remove it from system_prompt"
            )
        return self

    @model_validator(mode="after")
    def _pixels_have_an_aspect_ratio(self) -> DatasetConfig:
        if (self.store_images == "pixels") != (self.image_aspect_ratio is not None):
            do = "remove it and set it in the loader" if self.image_aspect_ratio else "set it to square or pad"
            raise ValueError(
                f"image_aspect_ratio is {self.image_aspect_ratio or 'missing'}, but store_images is "
                f"{self.store_images}; it is required for pixels and not allowed otherwise; {do}"
            )
        return self

    @model_validator(mode="after")
    def _keys_are_different(self) -> DatasetConfig:
        for one, other in (("image_key", "multi_turn_key"), ("role_key", "multi_turn_content_key")):
            if getattr(self, one) == getattr(self, other):
                raise ValueError(f"{one} and {other} are both {getattr(self, one)!r}; give them different names")
        return self

    @model_validator(mode="after")
    def _roles_are_used(self) -> DatasetConfig:
        if self.roles and self.record_format == "llava":
            raise ValueError(
                "roles is set, but record_format llava has the fixed roles human, gpt and system; set sharegpt"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _compute_num_patches(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        size, patch = values.get("image_size", 336), values.get("patch_size", 14)
        if not _is_positive_int(size) or not _is_positive_int(patch):
            return values  # reported by the validation of the fields
        if size % patch:
            raise ValueError(
                f"image_size is {size}, which is not a multiple of patch_size {patch}; correct one of them"
            )
        computed = (size // patch) ** 2
        given = values.get("num_patches")
        if given is not None and _is_positive_int(given) and given != computed:
            raise ValueError(
                f"num_patches is {given}, but image_size {size} and patch_size {patch} make {computed}; "
                "leave num_patches out or correct it"
            )
        return values if given is not None else {**values, "num_patches": computed}


def as_path(value: object) -> object:
    """Validate a path and expand `~` in it; None stays None."""
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError(f"it is {value!r}, expected a path")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"it is {value!r}, but that home folder does not exist; give the full path") from None


def _is_positive_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
