"""Check that an image exists inside `image_dir` and can be decoded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from preprocess.config import ConfigError, DatasetConfig
from preprocess.image_files import decode_rgb, error_message, is_inside
from preprocess.regular_files import open_regular
from preprocess.rejects import Reason, Rejected, shorten

# Total number of file names kept in memory; images in further folders are looked up one by one.
_MAX_NAMES = 2_000_000
# A Windows drive letter is not a scheme.
_SCHEME = re.compile("([A-Za-z][A-Za-z0-9+.-]+):")
_LOCAL_HOSTS = ("", "localhost")


class ImageChecker:
    """Checks paths of one image folder. Each sub-folder is listed once, instead of one stat per record.

    The owner of the image folder is trusted: links in it are followed, wherever they lead. Records are not trusted:
    a path of a record never leads out of the folder.
    """

    def __init__(
        self, image_dir: Path | None, mode: Literal["none", "exists", "decode"], max_names: int = _MAX_NAMES
    ) -> None:
        """`max_names` bounds the memory of folder listings; 0 looks up each file, which is fastest for few paths."""
        self._mode = mode
        self._root = None if image_dir is None else os.path.realpath(image_dir)
        self._named_root = None if image_dir is None else os.path.abspath(image_dir)
        # Name → whether it is a link whose target was not checked yet; None if the files are looked up one by one.
        self._listings: dict[str, dict[str, bool] | None] = {}
        self._names_left = max_names

    def check(self, path: str) -> str:
        """Check the path in a record: relative to the image folder, or the `file:` URL of a file in it.

        Returns:
            the path relative to the image folder.

        Raises:
            ConfigError: there is no image folder to check in.
            Rejected: IMAGE_NOT_LOCAL (another URL, or data), IMAGE_OUTSIDE (absolute, `..`, a NUL byte),
                IMAGE_MISSING, IMAGE_UNREADABLE (its folder cannot be accessed, or with `decode` the file is broken).
        """
        if self._mode == "none":
            return self._split(path)[0]
        inside, file = self.find(path)
        if self._mode == "decode":
            decode(file, inside)
        return inside

    def find(self, path: str) -> tuple[str, str]:
        """The path relative to the image folder, and the full path of the regular file.

        Raises:
            ConfigError, Rejected: as `check`, except for faults in the contents of the file.
        """
        path, folder, name = self._split(path)
        if self._root is None:
            raise ConfigError(
                "the record has an image, but dataset.image_dir is missing; give the folder that image paths are "
                "relative to, or dataset.check_images=none to leave images unchecked"
            )
        file = os.path.join(self._root, folder, name)
        if not self._is_there(folder, name):
            if _is_forbidden(file):
                raise Rejected(
                    Reason.IMAGE_UNREADABLE, f"{shorten(path, 200)} in image_dir cannot be accessed (Permission denied)"
                )
            raise Rejected(Reason.IMAGE_MISSING, f"no file {shorten(path, 200)} in image_dir")
        return path, file

    def _without_scheme(self, path: str) -> str:
        """The path of a `file:` URL, relative to the image folder if it is inside."""
        scheme = _SCHEME.match(path)
        if scheme is None or not (scheme[1].lower() in ("file", "data") or path.startswith("//", scheme.end())):
            return path
        try:
            found = urlsplit(path)
        except ValueError:  # brackets without an IPv6 address
            found = None
        if found is None or found.scheme != "file" or found.netloc not in _LOCAL_HOSTS:
            if found is not None and found.scheme == "file":
                host = f"names the host {shorten(found.netloc, 60)}, expected file:/// and an absolute path"
                raise Rejected(Reason.IMAGE_NOT_LOCAL, f"{shorten(path, 60)} {host}")
            raise Rejected(
                Reason.IMAGE_NOT_LOCAL, f"{shorten(path, 60)} is not a local file, expected a path or a file: URL"
            )
        inside = unquote(found.path)
        for root in (self._named_root, self._root):
            if root is not None and inside.startswith(root.rstrip("/") + "/"):
                return inside[len(root.rstrip("/")) + 1 :]
        return inside

    def _split(self, path: str) -> tuple[str, str, str]:
        """The path, its folder and its name, lexically inside the image folder."""
        if ":" in path:
            path = self._without_scheme(path)
        if "\0" in path:
            raise Rejected(
                Reason.IMAGE_OUTSIDE, f"{shorten(path, 200)} contains a NUL byte, which a path cannot contain"
            )
        if path.startswith("/"):
            raise Rejected(
                Reason.IMAGE_OUTSIDE, f"{shorten(path, 200)} is absolute, expected a path relative to image_dir"
            )
        if not is_inside(path):
            raise Rejected(Reason.IMAGE_OUTSIDE, f"{shorten(path, 200)} is not the path of a file inside image_dir")
        folder, _, name = path.rpartition("/")
        return path, folder, name

    def _is_there(self, folder: str, name: str) -> bool:
        """Whether the path is a regular file; links are followed."""
        if folder not in self._listings and self._names_left > 0:
            self._names_left -= 1
            self._listings[folder] = self._list(folder)
        listing = self._listings.get(folder)
        if listing is not None:
            if name not in listing:
                return False
            if not listing[name]:
                return True
        is_file = os.path.isfile(os.path.join(str(self._root), folder, name))
        if listing is not None:
            listing[name] = not is_file
        return is_file

    def _list(self, folder: str) -> dict[str, bool] | None:
        listing: dict[str, bool] = {}
        try:
            with os.scandir(os.path.join(str(self._root), folder)) as entries:
                for entry in entries:
                    is_link = entry.is_symlink()
                    if is_link or entry.is_file():
                        listing[entry.name] = is_link
                        if len(listing) > self._names_left:
                            return None
        except (OSError, ValueError):
            return None
        self._names_left -= len(listing)
        return listing


def _is_forbidden(file: str) -> bool:
    """Whether permission is missing to see if the file exists."""
    try:
        os.stat(file)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return False


def decode(file: str, shown: str) -> None:
    """Decode an image file; see `decode_rgb`.

    Raises:
        Rejected: IMAGE_UNREADABLE, with the error of `decode_rgb`.
    """
    try:
        with open_regular(file) as opened:
            decode_rgb(opened)
    except Exception as error:  # Pillow's plugins raise any exception on a broken file
        message = error_message(error).replace(file, shown)
        raise Rejected(Reason.IMAGE_UNREADABLE, f"{shorten(shown, 200)} cannot be decoded: {message}") from None


def require_image_dir(dataset: DatasetConfig) -> None:
    """Check that the image folder exists and can be accessed.

    Raises:
        ConfigError: `dataset.image_dir` is set and is not a folder, or files in it cannot be accessed.
    """
    if dataset.image_dir is None or dataset.check_images == "none":
        return
    try:
        os.stat(os.path.join(dataset.image_dir, "."))  # fails for a file, and without permission to access the folder
    except PermissionError:
        raise ConfigError(
            f"dataset.image_dir {dataset.image_dir}: cannot be accessed (Permission denied); make the folder readable"
        ) from None
    except OSError:
        raise ConfigError(
            f"dataset.image_dir {dataset.image_dir}: no such folder; give the folder that image paths are relative to, "
            "or dataset.check_images=none to leave images unchecked"
        ) from None
