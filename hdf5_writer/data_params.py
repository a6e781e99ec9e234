"""Read and validate `data_params.json`, for verify, the viewer, the loaders and the trainer.

Unknown keys are kept, since a later minor version may add some. Everything that a reader relies on is validated: a file
from another source may have a correct checksum and still be inconsistent.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hdf5_writer.layout import OutputLayout
from hdf5_writer.publish import DamagedError, unseal
from hdf5_writer.schema import ATTRIBUTES, SchemaError, ShardSize, check_version, layout_problems
from preprocess.regular_files import unreadable

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Size = Annotated[int, Field(ge=1, lt=2**31)]
_Id = Annotated[int, Field(ge=0, lt=2**31)]
_LONGEST_SHOWN = 80


class DataParamsError(ValueError):
    """A `data_params.json` is damaged, has another version, or is inconsistent; the message is one sentence."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class InputEntry(_Part):
    """An input file; `path` is relative to `setup.input_dir`. `source_file` of a sample is an index into the inputs."""

    path: str
    bytes: _Count
    crc32: _Count
    records: _Count


class ShardEntry(_Part):
    """A shard file."""

    name: str
    rows: _Count
    samples: _Count
    images: _Count
    contents: _Count
    stored_bytes: _Count
    bytes: _Count
    sha256: str

    @property
    def size(self) -> ShardSize:
        """The numbers of its entries."""
        return ShardSize(self.rows, self.samples, self.images, self.contents, self.stored_bytes)


class TokenizerEntry(_Part):
    """The tokenizer: its name, for display, and the sha256 over the content that determines ids."""

    name: str
    digest: str


class RejectsEntry(_Part):
    """`rejects.jsonl`."""

    bytes: _Count
    sha256: str


class Counts(_Part):
    """Numbers of records, images and samples; see docs/rows.md."""

    read: _Count
    written: _Count
    rejected: _Count
    rejected_by_reason: dict[str, _Count]
    with_image: _Count
    text_only: _Count
    images: _Count
    images_cut: _Count
    truncated: _Count
    images_moved: _Count
    first_turns_skipped: _Count


class TokenCounts(_Part):
    """Numbers of positions in all rows by content; `total` is the number of attended positions."""

    total: _Count
    text: _Count
    supervised: _Count
    image: _Count
    padding: _Count


class Lengths(_Part):
    """Histogram: element i of `samples` counts samples with i*bin to (i+1)*bin-1 attended positions."""

    bin: _Size
    samples: list[_Count]


class DatasetKeys(_Part):
    """The keys of section `dataset` of the config that readers use."""

    system_prompt_style: str
    image_dir: str | None
    system_prompt: str | None = None
    end_token: str | None = None
    max_images: _Size


class ShownConfig(_Part):
    """The config of the run, for display and for the viewer."""

    processor: dict[str, Any]
    dataset: DatasetKeys


class DataParams(_Part):
    """The whole document; docs/rows.md describes the keys."""

    schema_version: str
    package_version: str
    packing: Literal["none", "best_fit"]
    rows: _Count
    samples: _Count
    fill: Annotated[float, Field(ge=0, le=1)]
    most_images_per_row: _Count
    store_images: Literal["path", "encoded", "pixels"]
    image_aspect_ratio: Literal["square", "pad"] | None
    stored_bytes: _Count
    image_start_idx: _Count | None  # None for free rows
    num_patches: _Size
    image_size: _Size
    patch_size: _Size
    max_sequence_length: _Size
    pad_id: _Id
    bos_id: Annotated[int, Field(ge=-1, lt=2**31)]  # -1 for none
    eos_id: _Id
    vocab_size: _Size
    tokenizer: TokenizerEntry
    config: ShownConfig
    plan_digest: str
    limit: _Count | None
    inputs: list[InputEntry]
    counts: Counts
    tokens: TokenCounts
    lengths: Lengths
    rejects: RejectsEntry
    shards: list[ShardEntry]

    @model_validator(mode="after")
    def _numbers_agree(self) -> DataParams:
        for name in ("pad_id", "bos_id", "eos_id"):
            if getattr(self, name) >= self.vocab_size:
                raise ValueError(f"{name} is {getattr(self, name)}, expected an id below vocab_size {self.vocab_size}")
        if self.image_size % self.patch_size or (self.image_size // self.patch_size) ** 2 != self.num_patches:
            raise ValueError(
                f"num_patches is {self.num_patches}, expected (image_size / patch_size)^2 for image_size "
                f"{self.image_size} and patch_size {self.patch_size}"
            )
        if self.image_start_idx is not None and self.image_start_idx + self.num_patches > self.max_sequence_length:
            raise ValueError(
                f"image_start_idx {self.image_start_idx} and num_patches {self.num_patches} do not fit into "
                f"max_sequence_length {self.max_sequence_length}"
            )
        return self

    @model_validator(mode="after")
    def _counts_add_up(self) -> DataParams:
        counts = self.counts
        for name, parts in (
            ("read", counts.written + counts.rejected),
            ("written", counts.with_image + counts.text_only),
            ("written", sum(shard.samples for shard in self.shards)),
            ("images", sum(shard.images for shard in self.shards)),
            ("rejected", sum(counts.rejected_by_reason.values())),
        ):
            if getattr(counts, name) != parts:
                raise ValueError(f"counts.{name} is {getattr(counts, name)}, but its parts add up to {parts}")
        return self

    @model_validator(mode="after")
    def _rows_add_up(self) -> DataParams:
        found = {
            name: sum(getattr(shard, name) for shard in self.shards) for name in ("rows", "samples", "stored_bytes")
        }
        for name, parts in found.items():
            if getattr(self, name) != parts:
                raise ValueError(f"{name} is {getattr(self, name)}, but the shards hold {parts}")
        free = self.packing != "none" or self.config.dataset.max_images > 1
        if free != (self.image_start_idx is None):
            raise ValueError(
                f"image_start_idx is {self.image_start_idx}, but with packing {self.packing} and max_images "
                f"{self.config.dataset.max_images} it should be {'null' if free else 'a number'}"
            )
        if self.image_start_idx is not None and self.rows != self.samples:
            raise ValueError(
                f"image_start_idx is {self.image_start_idx}, but the {self.rows} rows hold {self.samples} samples; "
                "with images at the same place in every row there is one sample a row"
            )
        return self

    @model_validator(mode="after")
    def _shards_have_their_names(self) -> DataParams:
        for number, shard in enumerate(self.shards):
            expected = OutputLayout.shard_name(number, len(self.shards))
            if shard.name != expected:
                raise ValueError(f"shards.{number}.name is {_shown(shard.name)}, expected {expected!r}")
        return self

    def shard_problems(self, file: Any, size: ShardSize) -> Iterator[str]:
        """Yield the differences between an open shard (`h5py.File`) and this document, one sentence each."""
        attributes = {name: getattr(self, name) for name in ATTRIBUTES if name in type(self).model_fields}
        attributes["tokenizer_digest"] = self.tokenizer.digest
        if self.image_start_idx is None:
            attributes["image_start_idx"] = -1
        attributes["image_aspect_ratio"] = self.image_aspect_ratio or ""
        return layout_problems(file, attributes, size, self.max_sequence_length)


def read_data_params(layout: OutputLayout) -> DataParams:
    """Read and check the `data_params.json` of an output folder.

    Raises:
        FileNotFoundError: it does not exist, so the dataset is not finished.
        DataParamsError: it is damaged, unreadable, of another major version, or inconsistent.
    """
    path = layout.data_params
    try:
        document = unseal(path)
        if isinstance(export := document.get("format"), str):
            raise DataParamsError(
                f"{path}: is of an export in the format {_shown(export)}, which only its own trainer reads; give the "
                "folder that create_hdf5_dataset wrote and that was exported"
            )
        check_version(document.get("schema_version"), path)
        return DataParams.model_validate(document)
    except FileNotFoundError:
        raise
    except (DamagedError, SchemaError) as error:
        raise DataParamsError(f"{error}; run create_hdf5_dataset again, or copy the folder again") from None
    except ValidationError as error:
        raise DataParamsError(
            f"{path}: {_explain(error)}; the file was not written by create_hdf5_dataset: run it again, or copy the "
            "folder again"
        ) from None
    except OSError as error:
        raise DataParamsError(f"{path}: {unreadable(error, 'check the file system')}") from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"]
    if first["type"] == "value_error":
        return message.removeprefix("Value error, ")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{key} is missing"
    return f"{key} is {_shown(first['input'])}: {message.replace('Input should', 'it should', 1)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
