"""Read and check the parameters and the list of shards of a folder that `create_hdf5_dataset` wrote."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hdf5_writer.data_params import DataParams, DataParamsError, ShardEntry, read_data_params
from hdf5_writer.layout import OutputLayout
from hdf5_writer.schema import ShardSize


class DataDirError(ValueError):
    """A folder is not a finished dataset, or is incompatible with the others; the message is one sentence."""


@dataclass(frozen=True)
class Shard:
    """One shard file with its entries in `data_params.json`; `params` is the whole document."""

    path: Path
    size: ShardSize
    bytes: int
    sha256: str
    params: DataParams = field(repr=False)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.size.rows


@dataclass(frozen=True)
class DataDir:
    """Parameters of one dataset that reading needs.

    Attributes:
        root: the folder.
        tokenizer_digest, plan_digest, vocab_size: as in `data_params.json`.
        max_sequence_length, num_patches, image_start_idx, image_size, pad_id: layout of every row; `image_start_idx`
            is None for free rows (packed, or with several images).
        packing: "none" for one sample per row, otherwise the packing method.
        store_images, image_aspect_ratio: form of stored images, "path" for none; the latter only for pixels.
        system_prompt_style, system_prompt, end_token: the template of the rows, and what replaces its texts.
        inputs: names of the JSONL files; `source_file` of a sample is an index into them.
        shards: the shards in row order.
    """

    root: Path
    tokenizer_digest: str
    plan_digest: str
    max_sequence_length: int
    num_patches: int
    image_start_idx: int | None
    image_size: int
    pad_id: int
    packing: str
    vocab_size: int
    store_images: str
    image_aspect_ratio: str | None
    system_prompt_style: str
    system_prompt: str | None
    end_token: str | None
    inputs: tuple[str, ...]
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """Number of rows in all shards."""
        return sum(shard.rows for shard in self.shards)


def read_data_dir(root: str | Path) -> DataDir:
    """Read `data_params.json` and check that every shard exists with the recorded size.

    Raises:
        DataDirError: the folder or `data_params.json` is missing, the latter is damaged, inconsistent or of another
            major schema version, or a shard is missing or has another size.
    """
    layout = OutputLayout(Path(root).expanduser())
    if not layout.root.is_dir():
        raise DataDirError(f"{layout.root}: no such folder; give a folder that create_hdf5_dataset wrote")
    try:
        params = read_data_params(layout)
    except FileNotFoundError:
        found = "shards but no" if layout.shards() else "no"
        raise DataDirError(
            f"{layout.root}: holds {found} {layout.data_params.name}, so it is not a finished dataset; "
            "run create_hdf5_dataset to its end, or give another folder"
        ) from None
    except DataParamsError as error:
        raise DataDirError(str(error)) from None
    return DataDir(
        root=layout.root,
        tokenizer_digest=params.tokenizer.digest,
        plan_digest=params.plan_digest,
        max_sequence_length=params.max_sequence_length,
        num_patches=params.num_patches,
        image_start_idx=params.image_start_idx,
        image_size=params.image_size,
        pad_id=params.pad_id,
        packing=params.packing,
        vocab_size=params.vocab_size,
        store_images=params.store_images,
        image_aspect_ratio=params.image_aspect_ratio,
        system_prompt_style=params.config.dataset.system_prompt_style,
        system_prompt=params.config.dataset.system_prompt,
        end_token=params.config.dataset.end_token,
        inputs=tuple(file.path for file in params.inputs),
        shards=tuple(_check_shard(layout, params, shard) for shard in params.shards),
    )


def require_compatible(dirs: Sequence[DataDir]) -> None:
    """Refuse datasets whose rows cannot be in the same batch.

    Raises:
        DataDirError: names the folder, the parameter and both values.
    """
    first = dirs[0]
    for other in dirs[1:]:
        if (first.image_start_idx is None) != (other.image_start_idx is None):
            free, fixed = (first, other) if first.image_start_idx is None else (other, first)
            raise DataDirError(
                f"{free.root}: its rows are packed or hold several images, but those of {fixed.root} have one image "
                "at a fixed position; write one of them again with the same processor.packing and dataset.max_images"
            )
        for name in (
            "max_sequence_length",
            "num_patches",
            "image_start_idx",
            "image_size",
            "pad_id",
            "tokenizer_digest",
        ):
            expected, found = getattr(first, name), getattr(other, name)
            if found != expected:
                raise DataDirError(
                    f"{other.root}: has {name} {found}, but {first.root} has {expected}; "
                    "all rows of a loader must match: write one of them again"
                )


def _check_shard(layout: OutputLayout, params: DataParams, entry: ShardEntry) -> Shard:
    path = layout.root / entry.name
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DataDirError(f"{path}: is missing; copy the whole folder, or run create_hdf5_dataset again") from None
    if not stat.S_ISREG(found.st_mode):
        raise DataDirError(f"{path}: is not a regular file; copy it again, or run create_hdf5_dataset again")
    if found.st_size != entry.bytes:
        raise DataDirError(
            f"{path}: has {found.st_size} bytes, expected {entry.bytes}; copy it again, "
            "or run create_hdf5_dataset again"
        )
    return Shard(path, entry.size, entry.bytes, entry.sha256, params)
