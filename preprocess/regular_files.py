"""Open only regular files: reading a pipe may block forever, and a device may never end. Standard library only.

Also the words for a file that cannot be opened or read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


class NotRegularError(OSError):
    """A pipe, a socket, a device or a folder where a file was expected."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file to read its bytes; links are followed.

    Raises:
        NotRegularError: the path is not a regular file.
        OSError: the file does not exist or cannot be read.
    """
    return os.fdopen(open_descriptor(path), "rb")


def open_descriptor(path: str | Path) -> int:
    """As `open_regular`, but return a file descriptor, which the caller must close."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise NotRegularError("it is not a regular file")
    # The file may have been replaced since the check; opening it must not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegularError("it is not a regular file")
    return descriptor


def read_regular(path: str | Path) -> bytes:
    """All bytes of a regular file; see `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def unreadable(error: OSError, remedy: str) -> str:
    """The end of a message: the reason, and what to do, which is `remedy` unless permission is missing."""
    if isinstance(error, PermissionError):
        remedy = "make it readable"
    return f"cannot be read ({error.strerror or error}); {remedy}"
