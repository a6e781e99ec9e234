"""Files that are either there with all their bytes or not there at all."""

from __future__ import annotations

import os
import secrets
from glob import escape
from io import FileIO
from pathlib import Path


def partial_path(path: Path, writer: str = "") -> Path:
    """A hidden name beside `path` for the one who writes it; without `writer`, one that nobody else has."""
    return path.with_name(f".{path.name}.{writer or secrets.token_hex(4)}.partial")


def write_whole(path: Path, data: bytes, *, writer: str = "", flush: bool = True) -> None:
    """Write aside, flush to the disk, rename.

    Args:
        path: of the file.
        data: its content.
        writer: what a killed run of the same writer left aside is written over; otherwise it stays until
            `remove_partials`.
        flush: without, the file may be empty or missing after a power cut, though never after a kill.
    """
    aside = partial_path(path, writer)
    try:
        with open(aside, "wb", buffering=0) as file:
            write_all(file, data)
            if flush:
                os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


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


def remove_partials(path: Path) -> None:
    """Remove what killed runs left beside `path`."""
    for left_over in path.parent.glob(f".{escape(path.name)}.????????.partial"):
        left_over.unlink(missing_ok=True)
