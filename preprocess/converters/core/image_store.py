"""Images that come inside the source records, written out with the bytes they came with."""

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
from preprocess.image_files import decode_rgb, identified_image, what_was_said
from preprocess.rejects import Rejected, shorten

# For every format that is decoded.
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
    """Writes the images of one job. Two records may share an image; two images may not share a name.

    Args:
        folder: that their paths are relative to.
        overwrite: whether to replace a file of other content.
        writer: names the job, in the names of unfinished files: looking for them in a folder of a million images
            would take longer than to write one.
    """

    def __init__(self, folder: Path, *, overwrite: bool, writer: str) -> None:
        self._folder = folder
        self._writer = writer
        self._overwrite = overwrite
        self._digests: dict[str, bytes] = {}

    @property
    def count(self) -> int:
        """How many different images were stored."""
        return len(self._digests)

    def flush(self) -> None:
        """See to it that every image stored outlives a power cut.

        All at once: waiting for the disk after each of them took twice as long as everything else.
        """
        if self._digests:
            os.sync()

    def store(self, images: Sequence[ImageFile]) -> None:
        """Write the images of one record: all, or none if one cannot be. One that is there already is left alone.

        Raises:
            Rejected: IMAGE_DOES_NOT_DECODE, IMAGE_NAME_TAKEN (by another image of this job).
            InputError: a file with other content stands there, and it is not to be overwritten.
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
                    SourceReason.IMAGE_NAME_TAKEN, f"another image is already called {shorten(image.path, 200)}"
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
        # The beginning of the image is what a power cut left of it.
        if not (image.data.startswith(existing) or self._overwrite):
            raise InputError(
                f"{target} exists with other content; use another --output_image_dir, or --overwrite to replace it"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, [image.data], partial_path(target, self._writer), sync=False)


def named_by_content(data: bytes) -> ImageFile:
    """An image under the name its bytes give it, `ab/cd/abcd….jpg`: their sha256, and the suffix of their format.

    The same picture is one file, whatever it was called and however often it comes.

    Raises:
        Rejected: IMAGE_DOES_NOT_DECODE, when it is no image.
    """
    try:
        with identified_image(BytesIO(data)) as opened:
            suffix = SUFFIXES[str(opened.format)]
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them to
        raise Rejected(SourceReason.IMAGE_DOES_NOT_DECODE, what_was_said(error)) from None
    digest = sha256(data).hexdigest()
    return ImageFile(f"{digest[:2]}/{digest[2:4]}/{digest}{suffix}", data)


def check_decodes(data: bytes) -> None:
    """Decode a whole image as training will, to RGB.

    Raises:
        Rejected: IMAGE_DOES_NOT_DECODE, with what Pillow said.
    """
    try:
        decode_rgb(BytesIO(data))
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them to
        raise Rejected(SourceReason.IMAGE_DOES_NOT_DECODE, what_was_said(error)) from None
