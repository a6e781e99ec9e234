"""A job writes one output file from its inputs: writing, counting, rejects and receipts for all converters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from io import FileIO
from pathlib import Path

import orjson

from preprocess.atomic_files import partial_path, remove_partials, sync_folder, write_all, write_atomically
from preprocess.converters.core.canonical import Record
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.image_store import ImageStore
from preprocess.converters.core.receipt import Counts, Origin, Receipt
from preprocess.converters.core.sources import SourceRecord
from preprocess.rejects import Rejected

_BUFFER = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Job:
    """One output and everything that determines its bytes.

    Args:
        output: the JSONL file to write; its rejects and its receipt are written to the same folder.
        inputs: every input file, in reading order.
        input_root: the folder that input names in rejects and receipt are relative to.
        settings: the arguments that affect the output, with the name and version of the converter.
        fill: reads the inputs and writes records and rejects to the sink.
        image_dir: the output folder of images contained in records.
        note: a note for the user about the choice of inputs.
    """

    output: Path
    inputs: tuple[Path, ...]
    input_root: Path
    settings: Mapping[str, str | int]
    fill: Callable[[Sink], None]
    image_dir: Path | None = None
    note: str = ""

    @property
    def rejects(self) -> Path:
        """`name.rejects.jsonl` for `name.jsonl`."""
        return self.output.with_name(f"{self.output.name.removesuffix('.jsonl')}.rejects.jsonl")

    @property
    def receipt(self) -> Path:
        """`name.jsonl.receipt` for `name.jsonl`."""
        return self.output.with_name(f"{self.output.name}.receipt")

    def origin(self) -> Origin:
        """The current settings and inputs of the job."""
        return Origin.of(self.settings, self.inputs, self.input_root)


class Sink:
    """Writes and counts records and rejects."""

    def __init__(self, output: FileIO, rejects: FileIO, images: ImageStore | None) -> None:
        self._output = output
        self._rejects = rejects
        self._images = images
        self._pending: list[bytes] = []
        self._pending_size = 0
        self.written = 0
        self.turns_left_out = 0
        self.rejected: dict[str, int] = {}

    def convert(self, sources: Iterator[SourceRecord], convert: Callable[[SourceRecord], Record]) -> None:
        """Convert each source record and write the result, or the reject that `convert` raises."""
        for source in sources:
            try:
                if isinstance(source.value, Rejected):
                    raise source.value
                record = convert(source)
                if self._images is not None:
                    self._images.store(record.image_files)
            except Rejected as rejected:
                self.reject(source, rejected)
            else:
                self.write(record.line(), 1)
                self.turns_left_out += record.turns_left_out

    def write(self, lines: bytes, records: int) -> None:
        """Write complete lines, each with its line end."""
        self._pending.append(lines)
        self._pending_size += len(lines)
        self.written += records
        if self._pending_size >= _BUFFER:
            self.flush()

    def reject(self, source: SourceRecord, rejected: Rejected) -> None:
        """Write a reject with its reason."""
        reason = rejected.reason.value
        entry = {"file": source.file, "position": source.position, "reason": reason, "detail": rejected.detail}
        write_all(self._rejects, orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def flush(self) -> None:
        """Pass buffered data to the operating system."""
        if self._pending:
            write_all(self._output, b"".join(self._pending))
        self._pending, self._pending_size = [], 0

    def finish(self) -> Counts:
        """Write everything to the disk."""
        self.flush()
        os.fsync(self._output.fileno())
        os.fsync(self._rejects.fileno())
        if self._images is not None:
            self._images.flush()
        total = sum(self.rejected.values())
        reasons = dict(sorted(self.rejected.items()))
        images = 0 if self._images is None else self._images.count
        return Counts(self.written + total, self.written, reasons, images, self.turns_left_out)


def check(job: Job, *, overwrite: bool) -> Counts | None:
    """Check whether a job is finished.

    Returns:
        Its counts if the output is complete and was made from these inputs with these arguments; None if it must run.

    Raises:
        InputError: another file exists at the output path, or the output would replace an input.
    """
    if job.output.resolve() in {path.resolve() for path in job.inputs}:
        raise InputError(f"{job.output} is both an input and the output; use another output folder")
    if overwrite or not job.output.exists():
        return None
    again = "use another output folder, or --overwrite to replace it"
    receipt = Receipt.read(job.receipt)
    if receipt is None:
        raise InputError(f"{job.output} exists but has no receipt; {again}")
    origin = job.origin()
    if not receipt.counts.all_files_complete and receipt.origin.inputs != origin.inputs:
        return None  # the input was incomplete and has changed
    if difference := receipt.origin.difference(origin):
        raise InputError(f"{job.output} was made from other inputs or arguments: {difference}; {again}")
    size = job.output.stat().st_size
    if size != receipt.output_size:
        raise InputError(f"{job.output} has {size:,} bytes, expected {receipt.output_size:,} as written; {again}")
    if receipt.rejects_size and not job.rejects.exists():
        return None
    return receipt.counts


def run(job: Job, *, overwrite: bool) -> Counts:
    """Write one output. If killed at any moment, it leaves no output, and the next run starts again.

    Raises:
        InputError: an input cannot be converted, or the output folder cannot be written to.
        OSError: the disk failed or is full.
    """
    origin = job.origin()
    output, rejects = partial_path(job.output), partial_path(job.rejects)
    _make_folders(job)
    try:
        with open(output, "xb", buffering=0) as file, open(rejects, "xb", buffering=0) as rejects_file:
            sink = Sink(file, rejects_file, _image_store(job, overwrite=overwrite))
            job.fill(sink)
            counts = sink.finish()
            output_size, rejects_size = file.tell(), rejects_file.tell()
        if difference := origin.difference(job.origin()):
            raise InputError(f"an input changed while it was read: {difference}; rerun the command")
        # Remove an older output first, since with the new receipt it would look finished.
        job.output.unlink(missing_ok=True)
        if rejects_size:
            os.replace(rejects, job.rejects)
        else:
            job.rejects.unlink(missing_ok=True)
            rejects.unlink()
        receipt = Receipt(origin, counts, output_size, rejects_size).to_bytes()
        write_atomically(job.receipt, [receipt], partial_path(job.receipt))
        os.replace(output, job.output)
        sync_folder(job.output.parent)
    finally:
        output.unlink(missing_ok=True)
        rejects.unlink(missing_ok=True)
    return counts


def _image_store(job: Job, *, overwrite: bool) -> ImageStore | None:
    if job.image_dir is None:
        return None
    writer = blake2b(os.fsencode(job.output.absolute()), digest_size=4).hexdigest()
    return ImageStore(job.image_dir, overwrite=overwrite, writer=writer)


def _make_folders(job: Job) -> None:
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        for path in (job.output, job.rejects, job.receipt):
            remove_partials(path)
        # Detect a read-only folder before reading the inputs, which may take an hour.
        probe = partial_path(job.output)
        probe.touch(exist_ok=False)
        probe.unlink()
        if job.image_dir is not None:
            job.image_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = Path(error.filename or job.output)
        where = found.parent if found.suffix == ".partial" else found
        raise InputError(f"cannot write to {where} ({error.strerror}); give a folder that can be written to") from None
