"""All file names in an output folder. Imports nothing from the project."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path

SHARD_NAME = re.compile(r"examples-(\d{5,})-of-(\d{5,})\.h5")
_TEMPORARY_NAME = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp")


@dataclass(frozen=True)
class OutputLayout:
    """Paths of the files that a run writes.

    Public files are in `root`; the plan, the index of the inputs and the receipts are in a hidden work folder.
    A file under one of these names is complete: it is written under a `temporary` name and then renamed.
    """

    root: Path

    def shard(self, task: int, tasks: int) -> Path:
        """Path of shard `task` (from 0) of `tasks`."""
        return self.root / self.shard_name(task, tasks)

    @staticmethod
    def shard_name(task: int, tasks: int) -> str:
        """File name of shard `task` (from 0) of `tasks`."""
        return f"examples-{task:05d}-of-{tasks:05d}.h5"

    @property
    def data_params(self) -> Path:
        """Parameters of the dataset for its readers; written last."""
        return self.root / "data_params.json"

    @property
    def rejects(self) -> Path:
        """Rejected records, one JSON object per line, sorted by file and line."""
        return self.root / "rejects.jsonl"

    @property
    def report(self) -> Path:
        """HTML report of the run."""
        return self.root / "report.html"

    @property
    def rows_page(self) -> Path:
        """HTML page of rows written by `inspect_hdf5`."""
        return self.root / "rows.html"

    @property
    def work(self) -> Path:
        """The hidden work folder."""
        return self.root / ".work"

    @property
    def plan(self) -> Path:
        """The plan: config, inputs, tokenizer and index digests."""
        return self.work / "plan.json"

    @property
    def offsets(self) -> Path:
        """Byte offsets of the records, int64: for each file, the start of every record and the end of the last."""
        return self.work / "offsets.i64"

    @property
    def lines(self) -> Path:
        """Line numbers of the records, int64, from 1; absent if the records of every file are on lines 1 to n."""
        return self.work / "lines.i64"

    def unpacked(self, file: int) -> Path:
        """Decompressed copy of the compressed input number `file`; removed when the run is done."""
        return self.work / f"input-{file:05d}.jsonl"

    def receipt(self, task: int) -> Path:
        """Receipt of a task; it exists only if the task is done."""
        return self.work / "receipts" / f"{task:05d}.json"

    def export_receipt(self, number: int) -> Path:
        """The sha256 of file `number` of an export; removed when all files are there."""
        return self.work / "exported" / f"{number:05d}.json"

    def current_record(self, task: int) -> Path:
        """Number, from 0, of the record that a retried task is processing."""
        return self.work / f"working-on-{task:05d}"

    @property
    def lock(self) -> Path:
        """Lock held by the run that writes here; task slices share it."""
        return self.work / "lock"

    @property
    def planning_lock(self) -> Path:
        """Lock held by the task slice that makes the plan."""
        return self.work / "planning.lock"

    @property
    def staging(self) -> OutputLayout:
        """Folder in which a new plan is made while the old one is still in place."""
        return OutputLayout(self.work / "replan")

    def is_public_name(self, name: str) -> bool:
        """Return whether a run writes a file with this name into `root`."""
        names = {path.name for path in (self.data_params, self.rejects, self.report, self.rows_page)}
        return name in names or SHARD_NAME.fullmatch(name) is not None

    def shards(self) -> list[Path]:
        """Existing files with a shard's name, sorted."""
        return sorted(path for path in self.root.glob("examples-*.h5") if SHARD_NAME.fullmatch(path.name))

    def temporaries(self) -> list[Path]:
        """Temporary files left by killed runs; other `.*.tmp` files in `root` belong to the user."""
        found = []
        for path in self.root.glob(".*.tmp"):
            temporary = _TEMPORARY_NAME.fullmatch(path.name)
            if temporary and self.is_public_name(temporary[1]):
                found.append(path)
        for folder in (self.work, self.receipt(0).parent, self.export_receipt(0).parent):
            found += folder.glob(".*.tmp")
        return found

    @staticmethod
    def temporary(path: Path) -> Path:
        """A new temporary name in the folder of `path`, to be renamed to `path` once written."""
        return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
