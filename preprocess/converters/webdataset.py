"""WebDataset: tar files in which members with the same key form a sample of images and text.

Reads the .tar files of --input in order, without unpacking them:
  <key>.jpg, .jpeg, .png, .webp, … and <key>.json or <key>.txt, next to each other; the key ends at the first dot of the
  name, so <key>.0.jpg and <key>.1.jpg are two images of one sample, in the order of the archive
The JSON has "conversations", "messages", "texts" or "caption", see 'preprocess_dataset parquet -h', and "id"; other
keys, such as "image", are not used. A .txt is the caption, unless the JSON has one of the four keys.
Writes <name of the file>.jsonl, and the images as <output_image_dir>/ab/cd/<sha256>.jpg with their original bytes,
once per content. One image is "image": path, several are "image": [path, ...]. The id is the name of the file with the
"id" of the JSON, or with the key. Rejected: as for parquet; a sample without text, a member of more than 128 MiB, all
samples after damage in an archive.
"""

# Format: https://github.com/webdataset/webdataset, "The WebDataset Format". img2dataset writes .jpg, .txt and a .json
# with "caption" and metadata.

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from preprocess.converters.core.canonical import an_object
from preprocess.converters.core.converter import Converter
from preprocess.converters.core.image_store import SUFFIXES
from preprocess.converters.core.job import Job
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord
from preprocess.converters.published import conversion
from preprocess.converters.published.conversion import Place, Reading
from preprocess.converters.published.dialogue import Dialogue
from preprocess.converters.published.layouts import ID, LAYOUTS, TEXT, find_layout
from preprocess.image_files import LARGEST_FILE
from preprocess.rejects import Rejected

_IMAGE_SUFFIXES = {*SUFFIXES.values(), ".jpeg", ".tiff"}
_TEXTS = sorted({name for layout in LAYOUTS for name in layout.columns[TEXT]})


@dataclass
class _Sample:
    """The members of one key."""

    key: str
    images: list[bytes] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)  # by "json" or "txt"
    refused: Rejected | None = None

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo, extensions: str) -> None:
        """Add a member, if it is an image or a text."""
        is_image = f".{extensions.rpartition('.')[2]}" in _IMAGE_SUFFIXES
        if not member.isreg() or not (is_image or extensions in ("json", "txt")):
            return
        if member.size > LARGEST_FILE:
            detail = f"{member.name} has {member.size:,} bytes, expected at most {LARGEST_FILE:,}"
            self.refused = Rejected(SourceReason.UNREADABLE_ROW, detail)
            return
        file = archive.extractfile(member)
        data = b"" if file is None else file.read()
        if is_image:
            self.images.append(data)
        else:
            self.texts[extensions] = data

    def record(self) -> dict[str, Any] | Rejected:
        """The parsed text, with the key and the images."""
        try:
            if self.refused is not None:
                raise self.refused
            entry = _parsed(self.texts["json"]) if "json" in self.texts else {}
            if "txt" in self.texts and not any(name in entry for name in _TEXTS):
                entry["caption"] = _decoded(self.texts["txt"])
        except Rejected as rejected:
            return rejected
        # "image" in the JSON may be another path; the members are the images.
        entry.pop("image", None)
        return {**entry, "key": self.key, "images": self.images or None}


def samples(path: Path, name: str) -> Iterator[SourceRecord]:
    """The samples of an archive: the values are objects with "key", "images", and the keys of the text.

    If the file is not a tar file, or is truncated or damaged, the last sample is a reject: the one that contains the
    damage or precedes it. The samples after it are not counted.
    """
    for number, sample in enumerate(_samples(path)):
        yield SourceRecord(name, f"sample {sample.key}", number, sample.record())


def convert(source: SourceRecord, *, id_prefix: str, image_prefix: str) -> Dialogue:
    """One sample."""
    record = an_object(source.value)
    layout = find_layout(tuple(record), {})
    if layout is None:
        raise Rejected(
            SourceReason.NO_TURNS, f"the sample has neither a .txt nor a .json with one of {', '.join(_TEXTS)}"
        )
    columns = layout.find(tuple(record), {}) | {ID: "id" if record.get("id") not in (None, "") else "key"}
    reading = Reading(layout=layout, columns=columns, id_prefix=id_prefix, image_prefix=image_prefix)
    return reading.convert(source)


def _samples(path: Path) -> Iterator[_Sample]:
    sample: _Sample | None = None
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="replace") as archive:
            for member in archive:
                folder, slash, base = member.name.rpartition("/")
                name, _, extensions = base.partition(".")
                key = f"{folder}{slash}{name}"
                if sample is not None and sample.key != key:
                    yield sample
                    sample = None
                if name and not member.isdir():
                    sample = sample or _Sample(key)
                    sample.add(archive, member, extensions.lower())
                archive.members = []  # type: ignore[attr-defined] # it keeps all of them, for looking up names
            _require_end(archive)
    except tarfile.TarError as error:
        # The damaged part may have contained more members of the sample, so the sample counts as incomplete.
        sample = sample or _Sample("at the beginning")
        detail = f"the tar file cannot be read at or after this sample ({error}); check that the download is complete"
        sample.refused = Rejected(SourceReason.UNREADABLE_FILE, detail)
    if sample is not None:
        yield sample


def _require_end(archive: tarfile.TarFile) -> None:
    """Check that an archive has its end mark, a block of zeros, since tarfile accepts any other end silently.

    Raises:
        tarfile.ReadError: the archive is truncated or damaged after its last member.
    """
    file: BinaryIO = archive.fileobj  # type: ignore[assignment]
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"byte {archive.offset:,} is neither the start of a member nor the end of the archive")


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        return dict(an_object(orjson.loads(data)))
    except orjson.JSONDecodeError as error:
        raise Rejected(SourceReason.NOT_JSON, f"the .json: {error.msg} at character {error.pos + 1}") from None


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Rejected(SourceReason.NOT_UTF8, f"byte {error.start} of the .txt is 0x{data[error.start]:02x}") from None


def _plan(arguments: argparse.Namespace) -> list[Job]:
    return [_job(arguments, place) for place in conversion.places(arguments, ".tar")]


def _job(arguments: argparse.Namespace, place: Place) -> Job:
    read = partial(samples, place.path, place.name)
    reading = partial(convert, id_prefix=place.id_prefix, image_prefix=conversion.prefix(arguments))
    return conversion.job(arguments, CONVERTER, place, read, reading)


CONVERTER: Converter = Converter(
    name="webdataset",
    version=1,
    help="WebDataset tars with images, and conversations or captions",
    description=__doc__,
    example="--input data/cc3m/tars --output_jsonl_dir data/cc3m/llava_jsonl "
    "--output_image_dir data/cc3m/images --image_prefix cc3m/images",
    add_arguments=partial(conversion.add_arguments, suffix=".tar"),
    plan=_plan,
)
