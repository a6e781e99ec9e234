"""The content of a shard: names, dtypes, shapes, meanings and the version. Imports nothing from the project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Increase the major version if older readers would misread the file, the minor version if something is added.
SCHEMA_VERSION = "2.0"


class SchemaError(ValueError):
    """A file was written with an incompatible schema version, or not by this project."""


@dataclass(frozen=True)
class ShardSize:
    """Numbers of entries of a shard; `stored_bytes` is the size of its stored images in bytes."""

    rows: int
    samples: int
    images: int
    contents: int
    stored_bytes: int


@dataclass(frozen=True)
class DatasetSpec:
    """One HDF5 dataset of a shard.

    Attributes:
        name: its name in the file, including the group.
        dtype: on disk; "path" is a fixed-length, NUL-padded UTF-8 string as long as the longest path of the shard.
        entry: what one entry describes: the "positions" of a row, (max_sequence_length,); a "sample"; an "image"; an
            "offset": row r has the entries `offsets[r]:offsets[r + 1]` of its table; a "content": the distinct bytes of
            image files; the "hash" of a content, (32,); a "bound": start or end of a content, one more than contents.
        per_chunk: entries per HDF5 chunk, the smallest unit that can be read.
        meaning: description for documentation.
    """

    name: str
    dtype: Literal["<i4", "<u4", "<i8", "|u1", "path"]
    entry: Literal["positions", "sample", "image", "offset", "content", "hash", "bound"]
    per_chunk: int
    meaning: str

    def shape(self, size: ShardSize, max_sequence_length: int) -> tuple[int, ...]:
        """Return the shape of the dataset in a shard."""
        if self.entry == "positions":
            return size.rows, max_sequence_length
        if self.entry == "hash":
            return size.contents, 32
        counts = {"sample": size.samples, "image": size.images, "offset": size.rows + 1}
        return ({**counts, "content": size.contents, "bound": size.contents + 1}[self.entry],)


# 64 rows of 2048 int32 are 512 KB: large enough to compress well, small enough to be one read of a shuffling loader.
_WIDE, _NARROW = 64, 4096


def _of(table: str, *columns: tuple[str, Literal["<i4", "<i8", "path"], str]) -> list[DatasetSpec]:
    """Return the datasets of one of the two tables; its entries are in row order."""
    entry: Literal["sample", "image"] = "sample" if table == "samples" else "image"
    offsets = DatasetSpec(
        f"{table}/offsets", "<i8", "offset", _NARROW, f"row r has the {table} `offsets[r]` to `offsets[r + 1]`"
    )
    return [offsets, *(DatasetSpec(f"{table}/{name}", dtype, entry, _NARROW, what) for name, dtype, what in columns)]


DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            "text_input_ids",
            "<i4",
            "positions",
            _WIDE,
            "samples, each without its last token, then pad_id; image slots hold pad_id",
        ),
        DatasetSpec("labels", "<i4", "positions", _WIDE, "the next token of the sample, then pad_id"),
        DatasetSpec("loss_mask", "|u1", "positions", _WIDE, "1 where the label is supervised, else 0"),
        DatasetSpec(
            "key_padding_mask",
            "|u1",
            "positions",
            _WIDE,
            "1 where NOT to attend: padding, and the dummy slots of a fixed text-only row; else 0",
        ),
        *_of(
            "samples",
            ("start", "<i4", "its first position in the row"),
            ("length", "<i4", "positions; the dummy slots of a fixed text-only row are among them"),
            ("source_file", "<i4", "index into the list of inputs of data_params.json"),
            ("source_line", "<i8", "line in that file, from 1"),
        ),
        *_of(
            "images",
            ("path", "path", "path relative to image_dir"),
            ("start", "<i4", "position of its first slot in the row"),
            ("slots", "<i4", "number of slots"),
            ("content", "<i4", "index into contents; -1 where the file was not read (dataset.check_images)"),
        ),
        DatasetSpec("contents/sha256", "|u1", "hash", _NARROW, "of the image file"),
        DatasetSpec(
            "contents/begin",
            "<i8",
            "bound",
            _NARROW,
            "contents/data holds content i at `begin[i]` to `begin[i + 1]`",
        ),
        DatasetSpec("contents/crc32", "<u4", "content", _NARROW, "CRC-32 of what contents/data holds of it"),
    )
}
# uint8, (stored_bytes,): image files, or pixels of shape (3, image_size, image_size) each. Contiguous, without filters,
# and aligned in the file, so that each image is a single read at the offset in `contents/begin`.
CONTENT_DATA = "contents/data"
DATA_ALIGNMENT = 4096

# Filters of every other dataset, readable by any HDF5 library without a plugin: shuffle (groups bytes by significance),
# then gzip. Because of the Adler-32 at the end of each zlib stream, HDF5 itself refuses a damaged chunk.
GZIP_LEVEL = 1

# File attributes: name → meaning. None of them depends on the run, such as its time.
ATTRIBUTES: dict[str, str] = {
    "schema_version": "version of this layout, MAJOR.MINOR",
    "package_version": "version of llava-hdf5 that wrote the file",
    "n_examples": "rows in this shard",
    "n_samples": "samples in its rows",
    "n_images": "images in its rows",
    "n_contents": "distinct contents of these images, as far as they were read",
    "store_images": "what contents/data holds: path (nothing), encoded (image files) or pixels",
    "image_aspect_ratio": "of pixels: square or pad; else empty",
    "max_sequence_length": "positions in a row",
    "num_patches": "slots of an image",
    "image_start_idx": "position of the first image slot, in every row; -1 if images are at their place in the text",
    "pad_id": "the id in padding and image slots; it may equal eos_id or unk, so find padding by the mask",
    "bos_id": "-1 where the tokenizer has none",
    "eos_id": "",
    "vocab_size": "ids are below it",
    "tokenizer_digest": "sha256 over what decides ids",
    "plan_digest": "sha256 over what decides rows and their order",
}


def size_attributes(size: ShardSize) -> dict[str, int]:
    """Return the file attributes that hold the numbers of entries."""
    return {
        "n_examples": size.rows,
        "n_samples": size.samples,
        "n_images": size.images,
        "n_contents": size.contents,
    }


def decode_attribute(attribute: object) -> object:
    """Decode a string attribute; h5py returns fixed-length strings, which all of them are here, as bytes."""
    return attribute.decode(errors="replace") if isinstance(attribute, bytes) else attribute


def layout_problems(
    file: Any, attributes: Mapping[str, int | str], size: ShardSize, max_sequence_length: int
) -> Iterator[str]:
    """Compare the layout of an open shard with this module.

    Args:
        file: an `h5py.File`.
        attributes: expected attributes.
        size: expected numbers of entries.
        max_sequence_length: positions in a row.

    Yields:
        one sentence per difference.
    """
    for name, value in {**attributes, **size_attributes(size)}.items():
        found: Any = decode_attribute(file.attrs.get(name))
        found = found.item() if getattr(found, "size", 0) == 1 else found
        if type(found) is not type(value) or found != value:
            yield f"attribute {name} is {found!r}, expected {value!r}"
    for name, spec in DATASETS.items():
        dataset = file.get(name)
        if dataset is None:
            yield f"dataset {name} is missing"
            continue
        shape, dtype = getattr(dataset, "shape", None), getattr(dataset, "dtype", None)
        expected = spec.shape(size, max_sequence_length)
        if shape != expected:
            yield f"{name} has the shape {shape}, expected {expected}"
        elif dtype != spec.dtype and not (spec.dtype == "path" and getattr(dtype, "kind", None) == "S"):
            yield f"{name} is {dtype}, expected {spec.dtype}"
    data = file.get(CONTENT_DATA)
    found = None if data is None else (data.shape, data.dtype, data.chunks)
    if found != ((size.stored_bytes,), "|u1", None):
        yield f"{CONTENT_DATA} is {found}, expected {size.stored_bytes} contiguous bytes"


def check_version(found: object, where: object) -> None:
    """Refuse a file of an incompatible schema version.

    Args:
        found: the `schema_version` of the file; HDF5 returns it as bytes.
        where: the file, for the message.

    Raises:
        SchemaError: there is no version, or the major version differs.
    """
    found = decode_attribute(found)
    ours = int(SCHEMA_VERSION.split(".")[0])
    try:
        major = int(str(found).split(".")[0])
    except ValueError:
        raise SchemaError(
            f"{where}: has schema_version {found!r}, expected {SCHEMA_VERSION}; it was not written by this project"
        ) from None
    if major != ours:
        raise SchemaError(
            f"{where}: has schema version {found}, this installation reads {ours}.x; "
            f"{'upgrade llava-hdf5' if major > ours else 'write the dataset again'}"
        )
