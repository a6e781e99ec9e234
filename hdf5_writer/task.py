"""Run one task: the only place where the stages meet. A shard and its rejects are a function of (plan, task)."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from hdf5_writer.inputs import LONGEST_LINE, Line
from hdf5_writer.layout import OutputLayout
from hdf5_writer.plan import Plan, TokenizerFacts, read_plan
from hdf5_writer.publish import publish, seal
from hdf5_writer.report_facts import TaskFacts, fingerprints_every
from hdf5_writer.schema import SCHEMA_VERSION
from hdf5_writer.shard import ShardBuilder, sha256
from preprocess.config import Config, ConfigError
from preprocess.conversation import Conversation, read_conversation
from preprocess.features import RowLayout, measure_rows
from preprocess.images import ImageChecker
from preprocess.record_keys import RecordKeys, UnusedKeys
from preprocess.records import parse_record, record_id
from preprocess.rejects import Reason, Rejected
from preprocess.templates import renderer_for
from preprocess.token_batches import BatchEncoder
from preprocess.tokenizer import Tokenizer, load_tokenizer
from preprocess.tokens import Encoder, TokenSequence

_LONGEST_ID = 200
# Lines that go through the stages together, and their bytes: what is made of them in memory is a hundred times as much.
_AT_A_TIME = 128
_BYTES_AT_A_TIME = 1 << 20
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class TaskDone(NamedTuple):
    """What the engine needs to know of a finished task; the rest is in its receipt."""

    task: int
    read: int
    written: int


class Stages:
    """The stages of `preprocess`, set up by a config: one record in, one token sequence out."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        dataset = config.dataset
        self.tokenizer = tokenizer
        self.encoder = Encoder(tokenizer)
        self.batches = BatchEncoder(self.encoder)
        self.renderer = renderer_for(dataset)
        self.images = ImageChecker(dataset.image_dir, dataset.check_images)
        self._keys = RecordKeys(
            image=dataset.image_key,
            image_token=dataset.image_token,
            turns=dataset.multi_turn_key,
            content=dataset.multi_turn_content_key,
            role=dataset.role_key,
        )
        self._repair_text = dataset.use_ftfy
        self._empty_answer = dataset.empty_answer
        self.image_start_idx = len(self.encoder.encode(self.renderer.before_image()).ids)

    def facts(self) -> TokenizerFacts:
        """What the plan keeps of tokenizer and template."""
        tokenizer = self.tokenizer
        return TokenizerFacts(
            digest=tokenizer.digest,
            vocab_size=tokenizer.vocab_size,
            bos_id=-1 if tokenizer.bos_id is None else tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            image_start_idx=self.image_start_idx,
        )

    def read(self, record: dict[str, Any]) -> Conversation:
        """Validate a record and check its image."""
        conversation = read_conversation(
            record,
            self._keys,
            only_one_round=self.renderer.drops_question,
            repair_text=self._repair_text,
            empty_answer=self._empty_answer,
        )
        if conversation.image is not None:
            self.images.check(conversation.image)
        return conversation

    def encode(self, conversation: Conversation) -> TokenSequence:
        """Render and tokenize."""
        return self.encoder.encode(self.renderer.render(conversation))


def row_layout(config: Config, tokenizer: TokenizerFacts) -> RowLayout:
    """What all rows of a plan share.

    Raises:
        ConfigError: the image and one token do not fit into max_sequence_length.
    """
    length, slots = config.processor.max_sequence_length, config.dataset.num_patches
    if length < tokenizer.image_start_idx + slots + 1:
        raise ConfigError(
            f"processor.max_sequence_length is {length}, but the {tokenizer.image_start_idx} tokens before the image, "
            f"its {slots} patches and one token after it need at least {tokenizer.image_start_idx + slots + 1}"
        )
    return RowLayout(
        max_sequence_length=length,
        num_patches=slots,
        image_start_idx=tokenizer.image_start_idx,
        pad_id=tokenizer.pad_id,
        truncate=config.processor.overflow == "truncate",
    )


_warm: dict[str, Tokenizer] = {}


def warm_up(config: Config) -> None:
    """Load in a new worker, while the plan is still being made, what its first task will need."""
    name = config.processor.tokenizer_type
    _warm[name] = load_tokenizer(name)


def warm_tokenizer(config: Config) -> Tokenizer:
    """The tokenizer that `warm_up` loaded in this process, else one loaded now."""
    name = config.processor.tokenizer_type
    return _warm.get(name) or load_tokenizer(name)


def run_task(root: str, plan: Plan, task: int, careful: bool = False, skip: bool = False) -> TaskDone:
    """Make one shard and its receipt in the output folder of a plan.

    Args:
        root: the output folder.
        plan: with the folders and file times of the run that asks; those of a slice elsewhere may have other names.
        task: its number.
        careful: note each record before it is begun, so that one that kills the process can be named.
        skip: make an empty shard, and reject every record unread.

    Raises:
        ConfigError: a record needs what the config does not give.
        inputs.InputChangedError: an input is not the one that was planned.
        OSError: no space, no permission, …
        RuntimeError: the plan is another one, or a fault of the program, naming file and line.
    """
    return _runner(root, plan).run(task, careful, skip)


class _Loaded(threading.local):
    """What was loaded last. A worker of Dask may run tasks in several threads, and an encoder is not shared."""

    key: tuple[str, str] | None = None
    runner: _TaskRunner


_loaded = _Loaded()


def _runner(root: str, plan: Plan) -> _TaskRunner:
    if _loaded.key != (root, plan.fingerprint):
        _loaded.runner = _TaskRunner(OutputLayout(Path(root)), plan)
        _loaded.key = (root, plan.fingerprint)
    return _loaded.runner


class _TaskRunner:
    """Everything that is loaded once in a worker."""

    def __init__(self, layout: OutputLayout, plan: Plan) -> None:
        if read_plan(layout).digest != plan.digest:
            raise RuntimeError(f"{layout.plan}: is another plan than the one this run was started with")
        self._layout, self._plan = layout, plan
        config = plan.local_config()
        warm = _warm.pop(plan.config.processor.tokenizer_type, None)
        self._stages = Stages(config, warm or load_tokenizer(config.processor.tokenizer_type))
        if self._stages.facts() != plan.tokenizer:
            raise RuntimeError("the tokenizer was changed after the run was planned; run the same command again")
        self._reader = plan.reader(layout)
        self._row_layout = row_layout(plan.config, plan.tokenizer)

    def run(self, task: int, careful: bool, skip: bool) -> TaskDone:
        began = time.perf_counter()
        plan, records = self._plan, self._plan.task_records(task)
        work = _Work(plan, self._stages, self._row_layout)
        if skip:
            for file, line in zip(*(array.tolist() for array in self._reader.locate(records)), strict=True):
                work.note(Line(file, line, b"", 0), Rejected(Reason.SKIPPED, f"task {task} was skipped by --skip-task"))
        elif careful:
            self._run_carefully(task, records, work)
        else:
            for lines in self._reader.read(records):
                work.facts.lap("read")
                for some in _batches(lines):
                    work.add(some)
        image = work.builder.finish()
        work.facts.lap("verify")
        shard = self._layout.shard(task, plan.tasks)
        publish(shard, [image])
        work.facts.lap("write")
        if shard.read_bytes() != image:
            raise OSError(f"{shard}: the disk gives back other bytes than were written")
        work.facts.lap("verify")
        counts = dataclasses.asdict(work.builder.counts)
        counts["lengths"] = sorted(work.builder.counts.lengths.items())
        receipt = {
            "task": task,
            "plan": plan.digest,
            "read": len(records),
            "shard": {"name": shard.name, "bytes": len(image), "sha256": sha256(image)},
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
        self._layout.working_on(task).unlink(missing_ok=True)
        return TaskDone(task, len(records), work.builder.counts.rows)

    def _run_carefully(self, task: int, records: npt.NDArray[np.int64], work: _Work) -> None:
        done = 0
        with self._layout.working_on(task).open("w") as note:
            for lines in self._reader.read(records):
                for line in lines:
                    note.seek(0)
                    note.write(f"{done:020d}")
                    note.flush()
                    work.add([line])
                    done += 1


class _Work:
    """A shard in the making: records go through the stages some at a time, so that the time of each is known."""

    def __init__(self, plan: Plan, stages: Stages, layout: RowLayout) -> None:
        self.facts = TaskFacts(fingerprints_every(plan.records))
        verify_all = plan.config.setup.verify == "full"
        self.builder = ShardBuilder(layout, shard_attributes(plan), self.facts.lap, verify_all=verify_all)
        self.rejects: list[tuple[int, int, dict[str, Any]]] = []
        self.moved = self.skipped = self.dropped = 0
        self.unused = UnusedKeys()
        self._plan, self._stages, self._layout = plan, stages, layout

    def add(self, lines: list[Line]) -> None:
        """Make a row or a reject of each line."""
        stages, lap = self._stages, self.facts.lap
        lines, records = self._pass("parse", parse_line, lines, lines)
        lines, conversations = self._pass("validate", stages.read, lines, records)
        rendered = [stages.renderer.render(conversation) for conversation in conversations]
        lap("render")
        batch, failed = stages.batches.encode(rendered)
        lap("tokenize")
        rows, unfit = measure_rows(batch, self._layout)
        failed = unfit | failed
        if failed:
            for number in sorted(failed):
                self._judge(lines[number], failed[number])
            batch = batch.without(list(failed))
            rows, _ = measure_rows(batch, self._layout)
            lines = [line for number, line in enumerate(lines) if number not in failed]
            conversations = [found for number, found in enumerate(conversations) if number not in failed]
        images = [conversation.image for conversation in conversations]
        self.builder.add(batch, rows, images, [line.file for line in lines], [line.number for line in lines])
        self.facts.add(batch, rows, images)
        self.moved += sum(conversation.image_moved for conversation in conversations)
        self.skipped += sum(conversation.first_turn_skipped for conversation in conversations)
        self.dropped += sum(conversation.rounds_dropped for conversation in conversations)
        self.unused.add(conversation.unused_keys for conversation in conversations)
        lap("assemble")

    def _pass(
        self, stage: str, work: Callable[[_In], _Out], lines: list[Line], items: Sequence[_In]
    ) -> tuple[list[Line], list[_Out]]:
        """What a stage makes of each line's item, with the lines that are left; those it rejects are noted."""
        left: list[Line] = []
        passed: list[_Out] = []
        for line, item in zip(lines, items, strict=True):
            try:
                passed.append(work(item))
            except Exception as error:
                self._judge(line, error)
            else:
                left.append(line)
        self.facts.lap(stage)
        return left, passed

    def _judge(self, line: Line, error: Exception) -> None:
        """Note a reject; anything else ends the task, with the record named."""
        if isinstance(error, Rejected):
            self.note(line, error)
            return
        where = f"{self._plan.inputs[line.file].path}, line {line.number}"
        if isinstance(error, ConfigError):
            raise ConfigError(f"{where}: {error}") from None
        raise RuntimeError(f"{where}: {type(error).__name__}: {error}") from error

    def note(self, line: Line, reject: Rejected) -> None:
        """List a record as rejected."""
        entry = {
            "file": self._plan.inputs[line.file].path,
            "line": line.number,
            "id": _shown_id(line.data),
            "reason": reject.reason.value,
            "detail": reject.detail,
        }
        self.rejects.append((line.file, line.number, entry))


def _batches(lines: list[Line]) -> Iterator[list[Line]]:
    """The lines in parts of at most `_AT_A_TIME` lines and, unless one is longer, `_BYTES_AT_A_TIME` bytes."""
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
    """The file attributes that all shards of a plan share."""
    return {
        "schema_version": SCHEMA_VERSION,
        "package_version": plan.package_version,
        "max_sequence_length": plan.config.processor.max_sequence_length,
        "num_patches": plan.config.dataset.num_patches,
        "image_start_idx": plan.tokenizer.image_start_idx,
        "pad_id": plan.tokenizer.pad_id,
        "bos_id": plan.tokenizer.bos_id,
        "eos_id": plan.tokenizer.eos_id,
        "vocab_size": plan.tokenizer.vocab_size,
        "tokenizer_digest": plan.tokenizer.digest,
        "config_digest": plan.digest,
    }


def parse_line(line: Line) -> dict[str, Any]:
    """The record of a line.

    Raises:
        Rejected: it is too long, or no JSON object.
    """
    if line.size > LONGEST_LINE:
        raise Rejected(Reason.LINE_TOO_LONG, f"the line has {line.size:,} bytes, expected at most {LONGEST_LINE:,}")
    return parse_record(line.data)


def _shown_id(data: bytes) -> str | int | None:
    """The id of a rejected record, where it can be read."""
    try:
        found = record_id(parse_record(data))
    except Rejected:
        return None
    return found[:_LONGEST_ID] if isinstance(found, str) else found
