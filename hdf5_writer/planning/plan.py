"""The plan of a run: assigns every record to a shard, independently of the number of workers."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hdf5_writer import __version__
from hdf5_writer.config import Config
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.formats import with_formats
from hdf5_writer.planning.index import IndexDigests, build_index
from hdf5_writer.planning.inputs import InputFile, RecordReader, find_inputs, input_root
from hdf5_writer.planning.shuffle import permuted
from hdf5_writer.publish import digest_of, publish, seal, unseal
from hdf5_writer.schema import SCHEMA_VERSION
from preprocess.config import ConfigError


class OtherPlanError(ConfigError):
    """The output folder belongs to a different plan."""


@dataclass(frozen=True)
class TokenizerParams:
    """Properties of the tokenizer and the template that determine the rows."""

    digest: str
    vocab_size: int
    bos_id: int  # -1 for none
    eos_id: int
    pad_id: int
    image_start_idx: int
    chat_template: str | None = None  # digest of a Jinja template


@dataclass(frozen=True)
class Plan:
    """Everything that determines the bytes of the output, except the content of the images.

    Attributes:
        config: the whole config of the run that made the plan.
        limit: maximum number of records to read; None for all.
        inputs: the input files in order, with their record counts and formats.
        index: digests of the record index in the work folder.
        base: the folder that relative paths of the config refer to; workers may have a different working directory.
        pixels_by: the library version that determines stored pixels; see `pixels_made_by`.
    """

    config: Config
    limit: int | None
    inputs: tuple[InputFile, ...]
    tokenizer: TokenizerParams
    index: IndexDigests
    schema_version: str = SCHEMA_VERSION
    package_version: str = __version__
    base: str = field(default_factory=os.getcwd)
    pixels_by: str = ""

    @cached_property
    def records(self) -> int:
        """Number of records to read; each becomes one sample or one reject."""
        return sum(file.records for file in self.inputs)

    @cached_property
    def tasks(self) -> int:
        """Number of tasks; each writes one shard."""
        return -(-self.records // self.config.setup.samples_per_shard)

    @cached_property
    def digest(self) -> str:
        """The plan digest: sha256 over the config keys that determine rows and their order, inputs and tokenizer."""
        return digest_of(
            {
                "schema_version": self.schema_version,
                "config": self.config.row_keys(),
                "limit": self.limit,
                "pixels_by": self.pixels_by,
                "tokenizer": dataclasses.asdict(self.tokenizer),
                "inputs": [
                    [file.path, file.bytes, file.records, file.crc32, file.record_format] for file in self.inputs
                ],
            }
        )

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the whole plan, including folders and file times; identifies what a worker has loaded."""
        return digest_of(self.to_json())

    def records_of(self, task: int) -> int:
        """Return the number of records of a task."""
        size = self.config.setup.samples_per_shard
        return min(size, self.records - task * size)

    def task_records(self, task: int) -> npt.NDArray[np.int64]:
        """Return the record numbers of a task, (n,) int64, in the order in which they are processed."""
        setup = self.config.setup
        start = task * setup.samples_per_shard
        stop = start + self.records_of(task)
        if setup.shuffle:
            return permuted(start, stop, self.records, setup.seed)
        return np.arange(start, stop, dtype=np.int64)

    def input_paths(self) -> list[tuple[Path, InputFile]]:
        """Return the path of each input on this machine."""
        root = input_root(Path(self.base, self.config.setup.input_dir))
        return [(root / file.path, file) for file in self.inputs]

    def reader(self, layout: OutputLayout) -> RecordReader:
        """Return a reader of records by number."""
        return RecordReader(input_root(Path(self.base, self.config.setup.input_dir)), self.inputs, layout)

    def local_config(self) -> Config:
        """Return the config with relative folders made absolute."""
        dataset, processor = self.config.dataset, self.config.processor
        images = None if dataset.image_dir is None else Path(self.base, dataset.image_dir)
        template = None if dataset.chat_template is None else Path(self.base, dataset.chat_template)
        folder = Path(self.base, Path(processor.tokenizer_type).expanduser())
        tokenizer = str(folder) if folder.is_dir() else processor.tokenizer_type
        return self.config.model_copy(
            update={
                "dataset": dataset.model_copy(update={"image_dir": images, "chat_template": template}),
                "processor": processor.model_copy(update={"tokenizer_type": tokenizer}),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON document for `read_plan`."""
        return {
            "schema_version": self.schema_version,
            "package_version": self.package_version,
            "digest": self.digest,
            "base": self.base,
            "pixels_by": self.pixels_by,
            "limit": self.limit,
            "tokenizer": dataclasses.asdict(self.tokenizer),
            "index": dataclasses.asdict(self.index),
            "config": self.config.as_json(),
            "inputs": [dataclasses.asdict(file) for file in self.inputs],
        }


def make_plan(config: Config, limit: int | None, tokenizer: TokenizerParams, layout: OutputLayout) -> Plan:
    """Index the inputs into the work folder and write the plan there.

    Raises:
        ConfigError: no inputs, no records, an unreadable input.
        OSError: the work folder cannot be written.
    """
    files, _ = find_inputs(config.setup.input_dir, config.setup.output_dir)
    layout.plan.unlink(missing_ok=True)  # the index it refers to is about to change
    root = input_root(config.setup.input_dir)
    counted, index = build_index(root, files, layout, limit)
    inputs = with_formats(config.dataset, counted, RecordReader(root, counted, layout))
    plan = Plan(config, limit, inputs, tokenizer, index, pixels_by=pixels_made_by(config))
    if not plan.records:
        raise ConfigError(
            f"setup.input_dir {config.setup.input_dir}: {len(files)} input file(s), but no record in them; "
            "give files with one JSON object a line"
        )
    publish(layout.plan, [seal(plan.to_json())])
    return plan


def read_plan(layout: OutputLayout) -> Plan:
    """Read the plan of an output folder.

    Raises:
        FileNotFoundError: there is no plan.
        publish.DamagedError: the file is damaged.
    """
    document = unseal(layout.plan)
    return Plan(
        config=Config.model_validate(document["config"]),
        limit=document["limit"],
        inputs=tuple(InputFile(**file) for file in document["inputs"]),
        tokenizer=TokenizerParams(**document["tokenizer"]),
        index=IndexDigests(**document["index"]),
        schema_version=document["schema_version"],
        package_version=document["package_version"],
        base=document["base"],
        pixels_by=document["pixels_by"],
    )


def pixels_made_by(config: Config) -> str:
    """Return the library version that affects the bytes of stored pixels; empty if no pixels are stored."""
    if config.dataset.store_images != "pixels":
        return ""
    import PIL

    return f"Pillow {PIL.__version__}"


def is_unchanged(plan: Plan, files: list[InputFile], layout: OutputLayout) -> bool:
    """Return whether the names, sizes and times of the inputs match the plan, so that its index is still valid."""
    entries = plan.records + len(plan.inputs)
    same = [(f.path, f.bytes, f.mtime_ns) for f in plan.inputs] == [(f.path, f.bytes, f.mtime_ns) for f in files]
    return (
        same
        and _size(layout.offsets) == 8 * entries
        and _size(layout.lines) == (-1 if plan.index.lines is None else 8 * plan.records)
    )


def differences(old: Plan, config: Config, limit: int | None, digest: str, files: list[InputFile]) -> list[str]:
    """Describe how a new run differs from the plan in the folder; empty if it would produce the same rows.

    A different `image_dir` counts as a difference: rows depend on its content, and a run that corrects a wrong
    `image_dir` must not reuse the rejects of the earlier run.
    """
    found = []
    old_keys, new_keys = old.config.row_keys(), config.row_keys()
    for section in ("setup", "processor", "dataset"):
        for key in sorted(old_keys[section].keys() | new_keys[section].keys()):
            was, is_ = old_keys[section].get(key), new_keys[section].get(key)
            if was != is_:
                found.append(f"{section}.{key} was {was}, is {is_}")
    old_images, new_images = old.config.dataset.image_dir, config.dataset.image_dir
    if config.dataset.check_images != "none" and _resolved(old_images) != _resolved(new_images):
        found.append(f"dataset.image_dir was {old_images}, is {new_images}")
    if old.limit != limit:
        found.append(f"--limit was {old.limit or 'not given'}, is {limit or 'not given'}")
    if old.tokenizer.digest != digest:
        found.append(
            f"the files of the tokenizer {config.processor.tokenizer_type} are not those of "
            f"{old.config.processor.tokenizer_type}"
        )
    if (old.schema_version, old.package_version) != (SCHEMA_VERSION, __version__):
        found.append(f"it was written by llava-hdf5 {old.package_version}, this is {__version__}")
    if old.pixels_by != pixels_made_by(config):
        found.append(f"its pixels were made by {old.pixels_by or 'nothing'}, this run has {pixels_made_by(config)}")
    before, now = {f.path: f for f in old.inputs}, {f.path: f for f in files}
    for path in sorted(before.keys() | now.keys()):
        if path not in now:
            found.append(f"the input {path} is gone")
        elif path not in before:
            found.append(f"the input {path} is new")
        elif before[path].bytes != now[path].bytes:
            found.append(f"the input {path} had {before[path].bytes} bytes, has {now[path].bytes}")
    return found


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1
