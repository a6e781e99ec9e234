"""Files that are either there with all their bytes or not there at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from io import FileIO
from pathlib import Path


def partial_path(path: Path) -> Path:
    """A hidden name beside `path` that no other process has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


@contextmanager
def writing_aside(path: Path) -> Iterator[tuple[FileIO, Path]]:
    """A new file beside `path`, taken away again unless the block renames it."""
    aside = partial_path(path)
    try:
        with open(aside, "xb", buffering=0) as file:
            yield file, aside
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write aside, flush to the disk, rename."""
    with writing_aside(path) as (file, aside):
        write_all(file, data)
        os.fsync(file.fileno())
        os.replace(aside, path)


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
