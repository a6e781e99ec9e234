"""Write images contained in source records to files, with their original bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b, sha256
from io import BytesIO
from pathlib import Path

from preprocess.atomic_files import partial_path, write_atomically
from preprocess.converters.core.canonical import ImageFile
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.reasons import SourceReason
from preprocess.image_files import decode_rgb, error_message, identified_image
from preprocess.rejects import Rejected, shorten

# Of all supported formats.
SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "GIF": ".gif",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "PPM": ".ppm",
    "ICO": ".ico",
    "JPEG2000": ".jp2",
    "AVIF": ".avif",
}


class ImageStore:
    """Writes the images of one job. Several records may use the same image; different images need different paths.

    Args:
        folder: the folder that image paths are relative to.
        overwrite: whether to replace a file with different contents.
        writer: identifies the job in the names of partial files, since searching for them in a folder of a million
            images would take longer than writing an image.
    """

    def __init__(self, folder: Path, *, overwrite: bool, writer: str) -> None:
        self._folder = folder
        self._writer = writer
        self._overwrite = overwrite
        self._digests: dict[str, bytes] = {}

    @property
    def count(self) -> int:
        """The number of different images that were stored."""
        return len(self._digests)

    def flush(self) -> None:
        """Flush all stored images to the disk at once; flushing each image took twice as long as everything else."""
        if self._digests:
            os.sync()

    def store(self, images: Sequence[ImageFile]) -> None:
        """Write the images of one record, or none if one is invalid. An identical existing file is kept.

        Raises:
            Rejected: IMAGE_DOES_NOT_DECODE, IMAGE_NAME_TAKEN (by another image of this job).
            InputError: a file with different contents exists, and `overwrite` is false.
        """
        new: dict[str, bytes] = {}
        for image in images:
            digest = blake2b(image.data, digest_size=16).digest()
            known = self._digests.get(image.path, new.get(image.path))
            if known is None:
                check_decodes(image.data)
                new[image.path] = digest
            elif known != digest:
                raise Rejected(
                    SourceReason.IMAGE_NAME_TAKEN, f"another image already has the path {shorten(image.path, 200)}"
                )
        for image in images:
            if image.path in new:
                self._write(image)
                self._digests[image.path] = new.pop(image.path)

    def _write(self, image: ImageFile) -> None:
        target = self._folder / image.path
        existing = target.read_bytes() if target.is_file() else b""
        if existing == image.data:
            return
        # A file that contains only the beginning of the image was left by a power failure.
        if not (image.data.startswith(existing) or self._overwrite):
            raise InputError(
                f"{target} exists with different contents; use another --output_image_dir, or --overwrite to replace it"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, [image.data], partial_path(target, self._writer), sync=False)


def named_by_content(data: bytes) -> ImageFile:
    """An image named by its contents, `ab/cd/abcd….jpg`: the sha256 of the bytes, and the suffix of the format.

    Images with the same bytes share one file.

    Raises:
        Rejected: IMAGE_DOES_NOT_DECODE, if the data is not an image.
    """
    try:
        with identified_image(BytesIO(data)) as opened:
            suffix = SUFFIXES[str(opened.format)]
    except Exception as error:  # Pillow's plugins raise any exception on a broken file
        raise Rejected(SourceReason.IMAGE_DOES_NOT_DECODE, error_message(error)) from None
    digest = sha256(data).hexdigest()
    return ImageFile(f"{digest[:2]}/{digest[2:4]}/{digest}{suffix}", data)


def check_decodes(data: bytes) -> None:
    """Check that an image can be decoded to RGB, as training does.

    Raises:
        Rejected: IMAGE_DOES_NOT_DECODE, with Pillow's error.
    """
    try:
        decode_rgb(BytesIO(data))
    except Exception as error:  # Pillow's plugins raise any exception on a broken file
        raise Rejected(SourceReason.IMAGE_DOES_NOT_DECODE, error_message(error)) from None
