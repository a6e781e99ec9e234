"""Write the files of a step together; their receipt shows that all of them are complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import orjson

from preprocess.atomic_files import partial_path, sync_folder, write_all, write_atomically
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.receipt import Counts, Origin

FORMAT = 1
_BUFFER = 1 << 18


class LineFile:
    """A file that is written line by line under a temporary name."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.temporary = partial_path(path)
        self.size = 0
        self._file = FileIO(self.temporary, "x")
        self._pending: list[bytes] = []
        self._pending_size = 0

    def write(self, line: bytes) -> None:
        """Write a line, given with its line end."""
        self._pending.append(line)
        self._pending_size += len(line)
        self.size += len(line)
        if self._pending_size >= _BUFFER:
            self._flush()

    def write_json(self, value: object) -> None:
        """Write a value as a line of JSON."""
        self.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))

    def finish(self) -> None:
        """Write everything to the disk."""
        self._flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        """Remove the temporary file, unless it was renamed into place."""
        self._file.close()
        self.temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        write_all(self._file, b"".join(self._pending))
        self._pending, self._pending_size = [], 0


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """The output files of one step, and everything that determines their bytes.

    Args:
        folder: the output folder.
        step: name of the step; its receipt is `<step>.receipt` in the folder.
        patterns: glob patterns, relative to the folder, of all files that the step may write.
        settings: the arguments that affect the files.
        inputs: every input file.
    """

    folder: Path
    step: str
    patterns: tuple[str, ...]
    settings: Mapping[str, str | int]
    inputs: tuple[Path, ...]

    @property
    def receipt(self) -> Path:
        """The file with the inputs, arguments and counts of a finished step."""
        return self.folder / f"{self.step}.receipt"

    def existing(self) -> list[Path]:
        """The existing files of this step, sorted."""
        return sorted(path for pattern in self.patterns for path in self.folder.glob(pattern) if path.is_file())

    def finished(self) -> Counts | None:
        """The counts of a finished run with the same inputs and arguments; None if the step must run.

        Raises:
            InputError: the files were changed, or made from other inputs or with other arguments.
        """
        existing = {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in self.existing()}
        if not existing:
            return None
        again = "use another folder, or --overwrite to replace the files"
        try:
            document = orjson.loads(self.receipt.read_bytes())
            inputs = {name: (size, changed) for name, (size, changed) in document["inputs"].items()}
            origin, sizes, counts = (
                Origin(document["settings"], inputs),
                document["files"],
                Counts(**document["counts"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            first = self.folder / next(iter(existing))
            raise InputError(f"{first} exists but has no valid receipt {self.receipt.name}; {again}") from None
        if difference := origin.difference(self.origin()):
            raise InputError(
                f"the files of {self.receipt} were made from other inputs or arguments: {difference}; {again}"
            )
        for name, size in existing.items():
            if sizes.get(name) != size:
                expected = f"{sizes[name]:,} as written" if name in sizes else f"no such file by {self.receipt.name}"
                raise InputError(f"{self.folder / name} has {size:,} bytes, expected {expected}; {again}")
        return counts if existing.keys() == sizes.keys() else None

    def origin(self) -> Origin:
        """The current settings and inputs."""
        parents = [os.path.abspath(path.parent) for path in self.inputs]
        root = Path(os.path.commonpath(parents))
        return Origin.of(self.settings, [Path(os.path.abspath(path)) for path in self.inputs], root)

    def write(self, fill: Callable[[Callable[[str], LineFile]], Counts]) -> Counts:
        """Write all files. After a kill at any moment, rerunning gives the same files.

        Args:
            fill: writes the files; its argument is a function that opens a file by its name in the folder.

        Raises:
            InputError: an input changed while it was read, or the folder cannot be written to.
            OSError: the disk failed or is full.
        """
        origin = self.origin()
        with self._files() as files:

            def open_file(name: str) -> LineFile:
                files.append(LineFile(self.folder / name))
                return files[-1]

            counts = fill(open_file)
            for file in files:
                file.finish()
            if difference := origin.difference(self.origin()):
                raise InputError(f"an input changed while it was read: {difference}; rerun the command")
            # Remove older files first, since with the new receipt they would look finished.
            for path in self.existing():
                path.unlink()
            write_atomically(self.receipt, [self._receipt(origin, counts, files)], partial_path(self.receipt))
            for file in files:
                os.replace(file.temporary, file.path)
            for folder in {file.path.parent for file in files}:
                sync_folder(folder)
        return counts

    def _receipt(self, origin: Origin, counts: Counts, files: list[LineFile]) -> bytes:
        document = {
            "format": FORMAT,
            "settings": dict(origin.settings),
            "counts": {"read": counts.read, "written": counts.written, "rejected": dict(counts.rejected)},
            "files": {file.path.relative_to(self.folder).as_posix(): file.size for file in files},
            "inputs": {name: list(stat) for name, stat in origin.inputs.items()},
        }
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    def _remove_partials(self) -> None:
        """Remove the temporary files of killed runs, including those with other arguments."""
        for pattern in (*self.patterns, self.receipt.name):
            folder, _, name = pattern.rpartition("/")
            for left_over in (self.folder / folder).glob(f".{name}.????????.partial"):
                left_over.unlink(missing_ok=True)

    @contextmanager
    def _files(self) -> Iterator[list[LineFile]]:
        files: list[LineFile] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_partials()
            yield files
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"cannot write to {self.folder} ({error.strerror}); give a folder that can be written to"
            ) from None
        finally:
            for file in files:
                file.discard()
