"""Walk a folder without leaving out a part of it silently. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk_folder(top: Path, *, hidden: bool) -> Iterator[tuple[Path, list[str]]]:
    """Yield `top` and every folder below it, each with the sorted names of its files.

    Links to folders are followed, and each folder is visited once. Without `hidden`, files and folders whose names
    start with a dot are left out.

    Raises:
        OSError: a folder cannot be listed; `filename` is that folder.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a cycle of links
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        yield Path(parent), sorted(name for name in names if hidden or not name.startswith("."))
