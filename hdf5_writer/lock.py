"""Lock an output folder, so that only one run at a time writes to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from preprocess.config import ConfigError


class BusyError(ConfigError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold an advisory lock; it is released by the OS when the process exits for any reason.

    Args:
        path: the lock file, in the work folder.
        shared: hold a shared lock instead of an exclusive one.
        wait: wait until the lock is free.

    Raises:
        BusyError: another process holds it.
        ConfigError: the file system has no locks.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise BusyError(
                f"{path.parent.parent}: another run is writing here ({file.read().strip() or 'unknown owner'}); "
                "wait for it to end or use another setup.output_dir"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be locked ({error.strerror}); the file system has no flock: mount it with locks, or "
                "give a setup.output_dir on one that has them"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
