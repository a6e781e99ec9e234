"""The results file of `send`: one line per answered request; a request is done once its line is on the disk."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import orjson

from preprocess.atomic_files import write_all
from preprocess.converters.core.errors import InputError
from preprocess.rejects import shorten

_START = b'{"custom_id":'  # of each line that `send` writes


class Journal:
    """Appends lines in the format of a batch service's output file; the file is locked for one process.

    Attributes:
        done: the `custom_id` of every request that has a line.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file; an incomplete last line, left by a killed run, is removed.

        Raises:
            InputError: another process has the file open, or a line is not a result.
            OSError: the file cannot be written to.
        """
        self.done: set[str] = set()
        self._path = path
        self._file = open(path, "ab+", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise InputError(
                f"{path} is in use by another `send`; wait until it has finished, or give another --results"
            ) from None
        try:
            self._file.truncate(self._read())
            if not self._ended:
                self._file.write(b"\n")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines, given without line ends, and flush them to the disk.

        Raises:
            OSError: the disk is full, …
        """
        write_all(self._file, b"".join(line + b"\n" for line in lines))
        os.fsync(self._file)

    def _read(self) -> int:
        """Collect the ids; return the size of the complete lines in bytes."""
        complete = 0
        self._ended = True
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n") and line.startswith(_START[: len(line)]) and not _is_json(line):
                    break
                try:
                    result = orjson.loads(line)
                    done, _ = result["custom_id"], result["response"]
                except (orjson.JSONDecodeError, TypeError, KeyError):
                    where = f"{self._path}, line {number}"
                    raise InputError(
                        f"{where}: found {shorten(line.decode('utf-8', 'replace').strip())}, expected a result with "
                        "custom_id and response; give another --results"
                    ) from None
                self.done.add(str(done))
                self._ended = line.endswith(b"\n")
                complete += len(line)
        return complete


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
