"""Run one task: write one shard and its receipt. Both depend only on (plan, task)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from hdf5_writer.fitting import fit_samples
from hdf5_writer.image_spool import ImageSpool, stored_form
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.inputs import Line
from hdf5_writer.planning.pack import Packed, pack_samples
from hdf5_writer.planning.plan import Plan, read_plan
from hdf5_writer.publish import publish, seal, sha256_of
from hdf5_writer.report.task_statistics import TaskStatistics, fingerprints_every
from hdf5_writer.row_stream import RowStream, Samples
from hdf5_writer.rows import RowLayout
from hdf5_writer.schema import SCHEMA_VERSION
from hdf5_writer.shard import ShardBuilder, ShardFile
from hdf5_writer.stages import Stages, parse_line, row_layout, warm_tokenizer
from preprocess.config import ConfigError
from preprocess.record_keys import UnusedKeys
from preprocess.records import parse_record, record_id
from preprocess.rejects import Reason, Rejected

_LONGEST_ID = 200
# Maximum lines and bytes that pass through the stages together; their parsed form can take a hundred times the memory.
_AT_A_TIME = 128
_BYTES_AT_A_TIME = 1 << 20
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class TaskDone(NamedTuple):
    """Number and record counts of a finished task; everything else is in its receipt."""

    task: int
    read: int
    written: int


def run_task(root: str, plan: Plan, task: int, traced: bool = False, skip: bool = False) -> TaskDone:
    """Write one shard and its receipt into the output folder of a plan.

    Args:
        root: the output folder.
        plan: the plan with the folder names and file times of this run, which may differ from those of other slices.
        task: number of the task.
        traced: record on disk which record is being processed, so that one that kills the process can be reported.
        skip: write an empty shard, and reject every record unread.

    Raises:
        ConfigError: a record requires a key that the config does not set.
        inputs.InputChangedError: an input has changed since the plan was made.
        OSError: no space, no permission, …
        RuntimeError: the folder has a different plan, or a bug in this program; the message names file and line.
    """
    return _runner(root, plan).run(task, traced, skip)


class _Loaded(threading.local):
    """The last loaded task runner of a thread: a Dask worker may run several threads, which cannot share an encoder."""

    key: tuple[str, str] | None = None
    runner: _TaskRunner


_loaded = _Loaded()


def _runner(root: str, plan: Plan) -> _TaskRunner:
    if _loaded.key != (root, plan.fingerprint):
        _loaded.runner = _TaskRunner(OutputLayout(Path(root)), plan)
        _loaded.key = (root, plan.fingerprint)
    return _loaded.runner


class _TaskRunner:
    """Runs tasks of one plan; holds what is loaded once per worker."""

    def __init__(self, layout: OutputLayout, plan: Plan) -> None:
        if read_plan(layout).digest != plan.digest:
            raise RuntimeError(
                f"{layout.plan}: is not the plan that this run was started with; run the same command again"
            )
        self._layout, self._plan = layout, plan
        config = plan.local_config()
        self._stages = Stages(config, warm_tokenizer(config, release=True))
        if self._stages.tokenizer_params() != plan.tokenizer:
            raise RuntimeError("the tokenizer was changed after the run was planned; run the same command again")
        self._reader = plan.reader(layout)
        self._row_layout = row_layout(plan.config, plan.tokenizer)

    def run(self, task: int, traced: bool, skip: bool) -> TaskDone:
        began = time.perf_counter()
        plan, records = self._plan, self._plan.task_records(task)
        with _images_of(plan, self._stages, self._layout) as images:
            work = _Work(plan, task, self._stages, self._row_layout, images)
            self._fill(work, task, records, traced, skip)
            return self._publish(work, task, len(records), began)

    def _fill(self, work: _Work, task: int, records: npt.NDArray[np.int64], traced: bool, skip: bool) -> None:
        if skip:
            for file, line in zip(*(array.tolist() for array in self._reader.locate(records)), strict=True):
                work.note(Line(file, line, b"", 0), Rejected(Reason.SKIPPED, f"task {task} was skipped by --skip-task"))
        elif traced:
            self._run_traced(task, records, work)
        else:
            for lines in self._reader.read(records):
                work.facts.end_stage("read")
                for some in _batches(lines):
                    work.add(some)

    def _publish(self, work: _Work, task: int, read: int, began: float) -> TaskDone:
        plan = self._plan
        made = work.finish()
        work.facts.end_stage("verify")
        shard, digest = self._layout.shard(task, plan.tasks), hashlib.sha256()
        publish(shard, _hashed(made.parts(), digest))
        work.facts.end_stage("write")
        if sha256_of(shard) != digest.hexdigest():
            raise OSError(f"{shard}: read-back mismatch: the file differs from what was written")
        work.facts.end_stage("verify")
        counts = dataclasses.asdict(work.builder.counts)
        counts["lengths"] = sorted(work.builder.counts.lengths.items())
        receipt = {
            "task": task,
            "plan": plan.digest,
            "read": read,
            "shard": {"name": shard.name, "bytes": made.size, "sha256": digest.hexdigest()},
            "images": made.facts_digest,
            "counts": {
                **counts,
                "images_moved": work.moved,
                "first_turns_skipped": work.skipped,
                "dropped_rounds": work.dropped,
            },
            "unused_keys": work.unused.counts,
            "rejects": [entry for _, _, entry in sorted(work.rejects, key=lambda reject: reject[:2])],
            "report": work.facts.to_json(),
            "seconds": round(time.perf_counter() - began, 3),
        }
        publish(self._layout.receipt(task), [seal(receipt)])
        self._layout.current_record(task).unlink(missing_ok=True)
        return TaskDone(task, read, work.builder.counts.samples)

    def _run_traced(self, task: int, records: npt.NDArray[np.int64], work: _Work) -> None:
        done = 0
        with self._layout.current_record(task).open("w") as note:
            for lines in self._reader.read(records):
                for line in lines:
                    note.seek(0)
                    note.write(f"{done:020d}")
                    note.flush()
                    work.add([line])
                    done += 1


class _Work:
    """Builds a shard; records pass through the stages in small batches, so that the time of each stage is measured."""

    def __init__(self, plan: Plan, task: int, stages: Stages, layout: RowLayout, images: ImageSpool | None) -> None:
        self.facts = TaskStatistics(fingerprints_every(plan.records))
        verify_all = plan.config.setup.verify == "full"
        attributes = shard_attributes(plan)
        self.builder = ShardBuilder(layout, attributes, self.facts.end_stage, images=images, verify_all=verify_all)
        self._read = functools.partial(stages.read, check_image=None if images is None else images.check)
        self.rejects: list[tuple[int, int, dict[str, Any]]] = []
        self.moved = self.skipped = self.dropped = 0
        self.unused = UnusedKeys()
        self._plan, self._task, self._stages, self._layout = plan, task, stages, layout
        self._rows = RowStream(self._write_rows, None if plan.config.processor.packing == "none" else self._pack)

    def finish(self) -> ShardFile:
        """Return the finished shard."""
        self._rows.finish()
        return self.builder.finish()

    def add(self, lines: list[Line]) -> None:
        """Turn each line into a sample or a reject."""
        stages, end_stage = self._stages, self.facts.end_stage
        lines, records = self._apply("parse", parse_line, lines, lines)
        formats = [self._plan.inputs[line.file].record_format for line in lines]
        lines, conversations = self._apply(
            "validate", lambda found: self._read(*found), lines, list(zip(records, formats, strict=True))
        )
        lines, texts = self._apply("render", lambda found: (found, stages.renderer.render(found)), lines, conversations)
        conversations, rendered = [found for found, _ in texts], [segments for _, segments in texts]
        batch, failed = stages.batches.encode(rendered)
        end_stage("tokenize")
        fitted, measures, unfit = fit_samples(batch, self._layout)
        failed = {**unfit, **failed}
        if failed:
            for number in sorted(failed):
                self._reject_or_raise(lines[number], failed[number])
            lines = [line for number, line in enumerate(lines) if number not in failed]
            conversations = [found for number, found in enumerate(conversations) if number not in failed]
        samples = Samples(
            fitted,
            measures,
            np.array([line.file for line in lines], np.int64),
            np.array([line.number for line in lines], np.int64),
            [
                path
                for conversation, kept in zip(conversations, measures.images.tolist(), strict=True)
                for path in conversation.images[:kept]
            ],
        )
        self._rows.add(samples)
        self.moved += sum(conversation.image_moved for conversation in conversations)
        self.skipped += sum(conversation.first_turn_skipped for conversation in conversations)
        self.dropped += sum(conversation.rounds_dropped for conversation in conversations)
        self.unused.add(conversation.unused_keys for conversation in conversations)
        end_stage("assemble")

    def _write_rows(self, samples: Samples, samples_per_row: npt.NDArray[np.int64]) -> None:
        """Add rows to the shard and to the statistics."""
        self.builder.add(samples, samples_per_row)
        self.facts.add(samples)
        self.facts.end_stage("assemble")

    def _pack(self, lengths: npt.NDArray[np.int64], images: npt.NDArray[np.int64], window: int) -> Packed:
        """Pack the samples of a window into rows."""
        self.facts.end_stage("assemble")
        setup, processor = self._plan.config.setup, self._plan.config.processor
        packed = pack_samples(
            lengths,
            images,
            processor.max_sequence_length,
            processor.max_images_per_row,
            (setup.seed, self._task, window) if setup.shuffle else None,
        )
        self.facts.end_stage("pack")
        return packed

    def _apply(
        self, stage: str, work: Callable[[_In], _Out], lines: list[Line], items: Sequence[_In]
    ) -> tuple[list[Line], list[_Out]]:
        """Apply a stage to the item of each line; return the accepted lines and their results, and note the rejects."""
        left: list[Line] = []
        passed: list[_Out] = []
        for line, item in zip(lines, items, strict=True):
            try:
                passed.append(work(item))
            except Exception as error:
                self._reject_or_raise(line, error)
            else:
                left.append(line)
        self.facts.end_stage(stage)
        return left, passed

    def _reject_or_raise(self, line: Line, error: Exception) -> None:
        """Note a reject; raise any other error with the file and line of the record."""
        if isinstance(error, Rejected):
            self.note(line, error)
            return
        if isinstance(error, OSError):
            raise error
        where = f"{self._plan.inputs[line.file].path}, line {line.number}"
        if isinstance(error, ConfigError):
            raise ConfigError(f"{where}: {error}") from None
        raise RuntimeError(f"{where}: {type(error).__name__}: {error}") from error

    def note(self, line: Line, reject: Rejected) -> None:
        """Add a record to the rejects."""
        entry = {
            "file": self._plan.inputs[line.file].path,
            "line": line.number,
            "id": _shown_id(line.data),
            "reason": reject.reason.value,
            "detail": reject.detail,
        }
        self.rejects.append((line.file, line.number, entry))


@contextlib.contextmanager
def _images_of(plan: Plan, stages: Stages, layout: OutputLayout) -> Iterator[ImageSpool | None]:
    """Yield the image spool of a task; None if image files are not read."""
    dataset = plan.config.dataset
    if dataset.check_images != "decode":
        yield None
        return
    with contextlib.closing(ImageSpool(stages.images, layout.work, stored_form(dataset))) as images:
        yield images


def _hashed(parts: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    """Yield the parts unchanged, and update a hash with them."""
    for part in parts:
        digest.update(part)
        yield part


def _batches(lines: list[Line]) -> Iterator[list[Line]]:
    """Split the lines into batches of at most `_AT_A_TIME` lines and `_BYTES_AT_A_TIME` bytes, or one longer line."""
    batch: list[Line] = []
    size = 0
    for line in lines:
        size += len(line.data)
        if batch and (len(batch) == _AT_A_TIME or size > _BYTES_AT_A_TIME):
            yield batch
            batch, size = [], len(line.data)
        batch.append(line)
    if batch:
        yield batch


def shard_attributes(plan: Plan) -> dict[str, int | str]:
    """Return the file attributes that all shards of a plan share."""
    return {
        "schema_version": SCHEMA_VERSION,
        "package_version": plan.package_version,
        "max_sequence_length": plan.config.processor.max_sequence_length,
        "num_patches": plan.config.dataset.num_patches,
        "store_images": plan.config.dataset.store_images,
        "image_aspect_ratio": plan.config.dataset.image_aspect_ratio or "",
        "image_start_idx": -1 if plan.config.has_free_rows else plan.tokenizer.image_start_idx,
        "pad_id": plan.tokenizer.pad_id,
        "bos_id": plan.tokenizer.bos_id,
        "eos_id": plan.tokenizer.eos_id,
        "vocab_size": plan.tokenizer.vocab_size,
        "tokenizer_digest": plan.tokenizer.digest,
        "plan_digest": plan.digest,
    }


def _shown_id(data: bytes) -> str | int | None:
    """Return the id of a rejected record, shortened; None if it cannot be parsed."""
    try:
        found = record_id(parse_record(data))
    except Rejected:
        return None
    return found[:_LONGEST_ID] if isinstance(found, str) else found
