"""Read images with their captions and boxes from COCO's captions and instances files.

Format: https://cocodataset.org/#format-data. Captions and boxes are held in memory, segmentation masks are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocess.converters.core.canonical import an_object, identifier, image_path, text
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.sources import SourceRecord, elements
from preprocess.converters.instruction_data.contexts import Box, normalised
from preprocess.rejects import Rejected, shorten


@dataclass
class Photo:
    """An image with its annotations, in the order of the files; it is rejected for `fault`, its first error."""

    id: str
    image: str
    source: SourceRecord
    captions: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    fault: Rejected | None = None


@dataclass
class Annotations:
    """The contents of the two files.

    Attributes:
        photos: COCO's image id → image, in the order of the captions file.
        unreadable: invalid entries that cannot be assigned to an image, with the reject.
        unlisted: number of annotations of images that the captions file does not list.
    """

    photos: dict[str, Photo] = field(default_factory=dict)
    unreadable: list[tuple[SourceRecord, Rejected]] = field(default_factory=list)
    unlisted: int = 0


def read_annotations(captions: Path, instances: Path | None) -> Annotations:
    """Read both files, or only the captions.

    Raises:
        InputError: a file is not in this format (with the byte), or the two files have no image in common.
    """
    found = Annotations()
    for source, entry in _entries(captions, "images", found):
        try:
            photo = Photo(identifier(entry.get("id"), "id"), image_path(entry.get("file_name"), "file_name"), source)
            if photo.id in found.photos:
                raise Rejected(SourceReason.DUPLICATE_ID, f"an earlier image has the same id {photo.id}")
        except Rejected as rejected:
            found.unreadable.append((source, rejected))
        else:
            found.photos[photo.id] = photo
    _attach(captions, found, _add_caption)
    if instances is not None:
        _read_boxes(instances, found, captions)
    return found


def _read_boxes(path: Path, found: Annotations, captions: Path) -> None:
    sizes = {str(entry.get("id")): _size(entry) for _, entry in _entries(path, "images", found)}
    if found.photos and not found.photos.keys() & sizes.keys():
        raise InputError(f"{path} and {captions} have no image in common; give both files of the same split")
    names = {str(entry.get("id")): entry.get("name") for _, entry in _entries(path, "categories", found)}

    def add(photo: Photo, entry: Mapping[str, Any]) -> None:
        photo.boxes.append(_box(entry, names, sizes.get(photo.id)))

    for photo in found.photos.values():
        if photo.id not in sizes:
            detail = f"{path.name} does not list the image {photo.id}"
            photo.fault = photo.fault or Rejected(SourceReason.NO_IMAGE, detail)
    _attach(path, found, add)


def _attach(path: Path, found: Annotations, add: Callable[[Photo, Mapping[str, Any]], None]) -> None:
    """Add each annotation of a file to its image; an invalid annotation is a fault of the image."""
    for source, entry in _entries(path, "annotations", found):
        photo = found.photos.get(str(entry.get("image_id")))
        if photo is None:
            found.unlisted += 1
            continue
        try:
            add(photo, entry)
        except Rejected as rejected:
            where = f"{source.file}, annotation {source.number}: {rejected.detail}"
            photo.fault = photo.fault or Rejected(rejected.reason, where)


def _entries(path: Path, key: str, found: Annotations) -> Iterator[tuple[SourceRecord, Mapping[str, Any]]]:
    for source in elements(path, key=key, bare=False):
        try:
            if isinstance(source.value, Rejected):
                raise source.value
            yield source, an_object(source.value)
        except Rejected as rejected:
            found.unreadable.append((source, rejected))


def _add_caption(photo: Photo, entry: Mapping[str, Any]) -> None:
    # The request has one caption per line, and some captions of COCO contain line breaks.
    caption = text(entry.get("caption"), "caption", SourceReason.NO_CAPTION)
    photo.captions.append(" ".join(line.strip() for line in caption.splitlines()))


def _box(entry: Mapping[str, Any], names: Mapping[str, Any], size: tuple[float, float] | None) -> Box:
    category = text(names.get(str(entry.get("category_id"))), "the category", SourceReason.BAD_BOX)
    bbox = entry.get("bbox")
    if not (isinstance(bbox, list) and len(bbox) == 4 and not any(math.isnan(_number(value)) for value in bbox)):
        raise Rejected(
            SourceReason.BAD_BOX, f"bbox is {shorten(str(bbox))}, expected [left, top, width, height] in pixels"
        )
    if size is None:
        raise Rejected(SourceReason.BAD_BOX, "the image has no width and height above 0")
    return Box(category, normalised(*bbox, of=size))


def _size(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    width, height = _number(entry.get("width")), _number(entry.get("height"))
    return (width, height) if width > 0 and height > 0 else None


def _number(value: object) -> float:
    """The value if it is a number, else NaN, which fails every comparison."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
