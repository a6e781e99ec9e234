"""COCO's captions and instances files → images with what is known of them.

Format: https://cocodataset.org/#format-data. Memory grows with captions and boxes, not with the outlines of objects.
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
    """An image with its annotations, in the order of the files.

    `fault` is the first thing found wrong with it, and the reject that it becomes.
    """

    id: str
    image: str
    source: SourceRecord
    captions: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    fault: Rejected | None = None


@dataclass
class Annotations:
    """What the two files hold.

    `photos` are by COCO's image id, in the order of the captions file. `unreadable` are entries of either file that
    belong to no image. `elsewhere` counts annotations of images that the captions file does not list.
    """

    photos: dict[str, Photo] = field(default_factory=dict)
    unreadable: list[tuple[SourceRecord, Rejected]] = field(default_factory=list)
    elsewhere: int = 0


def read_annotations(captions: Path, instances: Path | None) -> Annotations:
    """Read both files, or the captions alone.

    Raises:
        InputError: a file is not such JSON, with the byte; or the two have no image in common.
    """
    found = Annotations()
    for source, entry in _entries(captions, "images", found):
        try:
            photo = Photo(identifier(entry.get("id"), "id"), image_path(entry.get("file_name"), "file_name"), source)
            if photo.id in found.photos:
                raise Rejected(SourceReason.DUPLICATE_ID, f"an image before it has the id {photo.id} too")
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
        raise InputError(f"{path} lists no image of {captions}; give both files of the same split")
    names = {str(entry.get("id")): entry.get("name") for _, entry in _entries(path, "categories", found)}

    def add(photo: Photo, entry: Mapping[str, Any]) -> None:
        photo.boxes.append(_box(entry, names, sizes.get(photo.id)))

    for photo in found.photos.values():
        if photo.id not in sizes:
            detail = f"{path.name} does not list the image {photo.id}"
            photo.fault = photo.fault or Rejected(SourceReason.NO_IMAGE, detail)
    _attach(path, found, add)


def _attach(path: Path, found: Annotations, add: Callable[[Photo, Mapping[str, Any]], None]) -> None:
    """Give each annotation of a file to its image; one that is wrong is a fault of the image."""
    for source, entry in _entries(path, "annotations", found):
        photo = found.photos.get(str(entry.get("image_id")))
        if photo is None:
            found.elsewhere += 1
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
    # One line each: some captions of COCO hold line breaks.
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
    """NaN, which is above nothing, for what is no number."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
