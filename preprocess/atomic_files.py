"""Atomic writing: a file is either complete or absent. Standard library only."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from glob import escape
from io import FileIO
from pathlib import Path


def write_atomically(path: Path, chunks: Iterable[bytes], temporary: Path, *, sync: bool = True) -> None:
    """Write a file atomically: `path` never names an incomplete file, even if the process is killed.

    Args:
        path: path of the file.
        chunks: content of the file.
        temporary: a path in the same folder that is written first and then renamed; an existing file is overwritten.
        sync: flush the file and its folder to the disk. If false, the file may be empty or missing after a power
            failure, but not after a kill.

    Raises:
        OSError: no space, no permission, …; the temporary file is removed and `path` is unchanged.
    """
    try:
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write does not name its file
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        sync_folder(path.parent)


def write_all(file: FileIO, data: bytes) -> None:
    """Write all bytes; a single `write` call may write only some of them."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def sync_folder(folder: Path) -> None:
    """Flush a folder, so that renames in it survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def partial_path(path: Path, writer: str = "") -> Path:
    """A hidden name in the folder of `path` for the process that writes it; random if `writer` is empty."""
    return path.with_name(f".{path.name}.{writer or secrets.token_hex(4)}.partial")


def remove_partials(path: Path) -> None:
    """Remove the partial files of `path` with random names that killed runs left."""
    for left_over in path.parent.glob(f".{escape(path.name)}.????????.partial"):
        left_over.unlink(missing_ok=True)
