"""A folder that `create_hdf5_dataset` wrote → its parameters and its shards, checked before anything is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from hdf5_writer.layout import SHARD_NAME, OutputLayout
from hdf5_writer.schema import SchemaError, check_version


class DataDirError(ValueError):
    """A folder is no finished dataset, or does not go with the others; the message is one sentence for the user."""


@dataclass(frozen=True)
class Shard:
    """One shard file as `data_params.json` names it."""

    path: Path
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class DataDir:
    """What reading needs to know of one dataset.

    Attributes:
        root: the folder.
        schema_version, tokenizer_digest, config_digest: as in `data_params.json`.
        max_sequence_length, num_patches, image_start_idx, image_size, pad_id: the shape and places of every row.
        inputs: names of the JSONL files; `source_file` of a row is an index into them.
        shards: in order; the rows of the dataset are theirs, one after the other.
    """

    root: Path
    schema_version: str
    tokenizer_digest: str
    config_digest: str
    max_sequence_length: int
    num_patches: int
    image_start_idx: int
    image_size: int
    pad_id: int
    inputs: tuple[str, ...]
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard.rows for shard in self.shards)


def read_data_dir(root: str | Path) -> DataDir:
    """Read `data_params.json` and check that every shard is there in the size it names.

    Raises:
        DataDirError: no such folder, no or a damaged `data_params.json`, another major schema version, a shard that
            is missing or has another size.
    """
    layout = OutputLayout(Path(root).expanduser())
    if not layout.root.is_dir():
        raise DataDirError(f"{layout.root}: no such folder; give a folder that create_hdf5_dataset wrote")
    params = _read_params(layout)
    try:
        check_version(params.get("schema_version"), layout.data_params)
    except SchemaError as error:
        raise DataDirError(str(error)) from None
    return DataDir(
        root=layout.root,
        schema_version=params["schema_version"],
        tokenizer_digest=params["tokenizer"]["digest"],
        config_digest=params["config_digest"],
        max_sequence_length=params["max_sequence_length"],
        num_patches=params["num_patches"],
        image_start_idx=params["image_start_idx"],
        image_size=params["image_size"],
        pad_id=params["pad_id"],
        inputs=tuple(file["path"] for file in params["inputs"]),
        shards=tuple(_check_shard(layout, shard) for shard in params["shards"]),
    )


def require_alike(dirs: Sequence[DataDir]) -> None:
    """Refuse datasets whose rows cannot stand in one batch.

    Raises:
        DataDirError: names the folder, the parameter and both values.
    """
    first = dirs[0]
    for other in dirs[1:]:
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
                    "rows of one loader must agree: write one of them again"
                )


def _read_params(layout: OutputLayout) -> dict[str, Any]:
    path = layout.data_params
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        found = "shards but no" if layout.shards() else "no"
        raise DataDirError(
            f"{layout.root}: holds {found} {path.name}, so it is no finished dataset; "
            "run create_hdf5_dataset to its end, or give another folder"
        ) from None
    except OSError as error:
        raise DataDirError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        document = orjson.loads(data)
        checksum = document.pop("checksum")
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise DataDirError(
            f"{path}: is damaged: no JSON document with a checksum; run create_hdf5_dataset again"
        ) from None
    # The writer's rule: sha256 over the document without the checksum, keys sorted, no blanks. What means the same
    # and is not written the same, such as 5E-2 for 0.05, is damage too.
    digest = hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()
    as_written = orjson.dumps({**document, "checksum": digest}, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_INDENT_2)
    if checksum != digest or data != as_written:
        raise DataDirError(f"{path}: was changed after it was written; run create_hdf5_dataset again")
    return document  # type: ignore[no-any-return]


def _check_shard(layout: OutputLayout, entry: dict[str, Any]) -> Shard:
    if not SHARD_NAME.fullmatch(entry["name"]):
        raise DataDirError(f"{layout.data_params}: names {entry['name']!r}, which is no name of a shard")
    path = layout.root / entry["name"]
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataDirError(f"{path}: is missing; copy the whole folder, or run create_hdf5_dataset again") from None
    if size != entry["bytes"]:
        raise DataDirError(
            f"{path}: has {size} bytes, expected {entry['bytes']}; copy it again, or run create_hdf5_dataset again"
        )
    return Shard(path, entry["rows"], entry["bytes"], entry["sha256"])
