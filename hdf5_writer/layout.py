"""Every path in an output directory. Imports nothing of the project."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path

SHARD_NAME = re.compile(r"examples-(\d{5,})-of-(\d{5,})\.h5")
_TEMPORARY_NAME = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp")


@dataclass(frozen=True)
class OutputLayout:
    """The names of what a run writes.

    Public files stand in `root`; the plan, the index of the inputs and the receipts in a hidden work folder.
    A file under one of these names is whole: it was written under a `temporary` name first.
    """

    root: Path

    def shard(self, task: int, tasks: int) -> Path:
        """Shard `task`, counted from 0, of `tasks`."""
        return self.root / self.shard_name(task, tasks)

    @staticmethod
    def shard_name(task: int, tasks: int) -> str:
        """The file name of shard `task`, counted from 0, of `tasks`."""
        return f"examples-{task:05d}-of-{tasks:05d}.h5"

    @property
    def data_params(self) -> Path:
        """What a reader needs to know; written last."""
        return self.root / "data_params.json"

    @property
    def rejects(self) -> Path:
        """One JSON object a line, sorted by file and line."""
        return self.root / "rejects.jsonl"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.root / "report.html"

    @property
    def rows_page(self) -> Path:
        """The page of rows that `inspect_hdf5` writes."""
        return self.root / "rows.html"

    @property
    def work(self) -> Path:
        """The hidden folder."""
        return self.root / ".work"

    @property
    def plan(self) -> Path:
        """Config, inputs and tasks."""
        return self.work / "plan.json"

    @property
    def offsets(self) -> Path:
        """Byte offsets of the records, int64: per file one for each record and one for the end of the last."""
        return self.work / "offsets.i64"

    @property
    def lines(self) -> Path:
        """Line numbers of the records, int64, from 1; absent when no file has blank lines."""
        return self.work / "lines.i64"

    def unpacked(self, file: int) -> Path:
        """The decompressed copy of input `file`, for inputs that are compressed; removed when the run is done."""
        return self.work / f"input-{file:05d}.jsonl"

    def receipt(self, task: int) -> Path:
        """Proof that a task is done."""
        return self.work / "receipts" / f"{task:05d}.json"

    def working_on(self, task: int) -> Path:
        """Which of its records a task that is run alone has come to, counted from 0."""
        return self.work / f"working-on-{task:05d}"

    @property
    def lock(self) -> Path:
        """Held by the run that writes here; shared by runs that each do a part."""
        return self.work / "lock"

    @property
    def planning_lock(self) -> Path:
        """Held by the one of several partial runs that makes the plan."""
        return self.work / "planning.lock"

    @property
    def aside(self) -> OutputLayout:
        """Where a plan is made while another one still stands."""
        return OutputLayout(self.work / "replan")

    def shards(self) -> list[Path]:
        """What is there under a shard's name."""
        return sorted(path for path in self.root.glob("examples-*.h5") if SHARD_NAME.fullmatch(path.name))

    def temporaries(self) -> list[Path]:
        """What runs that were killed have left behind; other files of such a name in `root` are the user's."""
        ours = {path.name for path in (self.data_params, self.rejects, self.report, self.rows_page)}
        found = []
        for path in self.root.glob(".*.tmp"):
            temporary = _TEMPORARY_NAME.fullmatch(path.name)
            if temporary and (temporary[1] in ours or SHARD_NAME.fullmatch(temporary[1])):
                found.append(path)
        return [*found, *self.work.glob(".*.tmp"), *self.receipt(0).parent.glob(".*.tmp")]

    @staticmethod
    def temporary(path: Path) -> Path:
        """A new name beside `path` to write under before renaming."""
        return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
