"""One output file from its inputs: what every converter shares. Writing, counting, rejects, and what is finished."""

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
    """One output and everything that decides its bytes.

    Args:
        output: the JSONL file to write; its rejects and its receipt stand beside it.
        inputs: every file that is read, in the order it is read.
        input_root: the folder the inputs are named from in rejects and receipt.
        settings: the arguments that change the output, with the name and version of the converter.
        fill: reads the inputs and puts records and rejects into the sink.
        image_dir: where images inside the records are written.
        note: something the user should know about the choice of inputs.
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
        """`name.rejects.jsonl` beside `name.jsonl`."""
        return self.output.with_name(f"{self.output.name.removesuffix('.jsonl')}.rejects.jsonl")

    @property
    def receipt(self) -> Path:
        """`name.jsonl.receipt` beside `name.jsonl`."""
        return self.output.with_name(f"{self.output.name}.receipt")

    def origin(self) -> Origin:
        """What the output would be made from now."""
        return Origin.of(self.settings, self.inputs, self.input_root)


class Sink:
    """Takes records and rejects, and counts them."""

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
        """Put each source record in, as what `convert` makes of it or as the reject that it raises."""
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
        """Write lines that are ready, each with its line end."""
        self._pending.append(lines)
        self._pending_size += len(lines)
        self.written += records
        if self._pending_size >= _BUFFER:
            self.flush()

    def reject(self, source: SourceRecord, rejected: Rejected) -> None:
        """List a record that was dropped, and why."""
        reason = rejected.reason.value
        entry = {"file": source.file, "position": source.position, "reason": reason, "detail": rejected.detail}
        write_all(self._rejects, orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def flush(self) -> None:
        """Hand over to the operating system what is still held here."""
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
    """See whether a job is done.

    Returns:
        Its counts if its output is there, whole and made from these inputs with these arguments; None if it is to run.

    Raises:
        InputError: something else stands where the output goes, or the output would replace an input.
    """
    if job.output.resolve() in {path.resolve() for path in job.inputs}:
        raise InputError(f"{job.output} is an input and would be the output too; use another output folder")
    if overwrite or not job.output.exists():
        return None
    again = "use another output folder, or --overwrite to write it again"
    receipt = Receipt.read(job.receipt)
    if receipt is None:
        raise InputError(f"{job.output} exists without a receipt that says what it was made from; {again}")
    origin = job.origin()
    if not receipt.counts.all_files_whole and receipt.origin.inputs != origin.inputs:
        return None  # of half a download, which is complete now
    if difference := receipt.origin.difference(origin):
        raise InputError(f"{job.output} was made from something else: {difference}; {again}")
    size = job.output.stat().st_size
    if size != receipt.output_size:
        raise InputError(f"{job.output} has {size:,} bytes, and {receipt.output_size:,} were written; {again}")
    if receipt.rejects_size and not job.rejects.exists():
        return None
    return receipt.counts


def run(job: Job, *, overwrite: bool) -> Counts:
    """Write one output. Killed at any instant, it leaves no output, and the next run starts it again.

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
            raise InputError(f"an input changed while it was read: {difference}; run the command again")
        # An older output goes first: beside the new receipt it would look finished.
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
        # A read-only folder shows now, and not after an hour of reading.
        probe = partial_path(job.output)
        probe.touch(exist_ok=False)
        probe.unlink()
        if job.image_dir is not None:
            job.image_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = Path(error.filename or job.output)
        where = found.parent if found.suffix == ".partial" else found
        raise InputError(f"cannot write to {where} ({error.strerror}); give a folder that can be written to") from None
