"""Files that are either there with all their bytes or not there at all. Standard library only."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from glob import escape
from io import FileIO
from pathlib import Path


def write_atomically(path: Path, chunks: Iterable[bytes], temporary: Path, *, sync: bool = True) -> None:
    """Write a file so that its name never stands for less than all of it, whenever the process is killed.

    Args:
        path: of the file.
        chunks: its content.
        temporary: a name in the same folder to write under first; what stands there is overwritten.
        sync: flush the file and its folder to the disk; without, the file may be empty or missing after a power cut,
            though never after a kill.

    Raises:
        OSError: no space, no permission, …; the temporary file is removed and `path` is as it was.
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
    """Write every byte: one call to the operating system may take only a part."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def partial_path(path: Path, writer: str = "") -> Path:
    """A hidden name beside `path` for the process that writes it; without `writer`, a random one."""
    return path.with_name(f".{path.name}.{writer or secrets.token_hex(4)}.partial")


def remove_partials(path: Path) -> None:
    """Remove the files under random partial names that killed runs left beside `path`."""
    for left_over in path.parent.glob(f".{escape(path.name)}.????????.partial"):
        left_over.unlink(missing_ok=True)
