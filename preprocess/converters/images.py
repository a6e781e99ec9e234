"""Images that come inside the source records, written out with the bytes they came with."""

from __future__ import annotations

import os
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

from preprocess.converters.atomic import write_whole
from preprocess.converters.canonical import ImageFile
from preprocess.converters.errors import InputError
from preprocess.converters.rejects import Reason, Rejected
from preprocess.image_files import decode_rgb, what_was_said
from preprocess.rejects import shorten


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

    def store(self, image: ImageFile) -> None:
        """Write one image, unless it is there already.

        Raises:
            Rejected: IMAGE_DOES_NOT_DECODE, IMAGE_NAME_TAKEN (by another image of this job).
            InputError: a file with other content stands there, and it is not to be overwritten.
        """
        digest = blake2b(image.data, digest_size=16).digest()
        known = self._digests.get(image.path)
        if known == digest:
            return
        if known is not None:
            raise Rejected(Reason.IMAGE_NAME_TAKEN, f"another image is already called {shorten(image.path, 200)}")
        check_decodes(image.data)
        target = self._folder / image.path
        existing = target.read_bytes() if target.is_file() else b""
        if existing != image.data:
            # The beginning of the image is what a power cut left of it.
            if not (image.data.startswith(existing) or self._overwrite):
                raise InputError(
                    f"{target} exists with other content; use another --output_image_dir, or --overwrite to replace it"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, image.data, writer=self._writer, flush=False)
        self._digests[image.path] = digest


def check_decodes(data: bytes) -> None:
    """Decode a whole image as training will, to RGB.

    Raises:
        Rejected: IMAGE_DOES_NOT_DECODE, with what Pillow said.
    """
    try:
        decode_rgb(BytesIO(data))
    except Exception as error:  # Pillow's plugins raise whatever a broken file leads them to
        raise Rejected(Reason.IMAGE_DOES_NOT_DECODE, what_was_said(error)) from None
