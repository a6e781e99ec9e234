"""The Python API of `hdf5_writer`, for scripts and notebooks (docs/python.md)."""

from __future__ import annotations

import html
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import orjson

from hdf5_writer import run, verify
from hdf5_writer.config import Config, load_config
from hdf5_writer.engines.local import TasksFailedError
from hdf5_writer.failures import explain_failed_tasks
from hdf5_writer.layout import OutputLayout
from hdf5_writer.progress import ConsoleProgress, dataset_warnings, summary_rows
from hdf5_writer.report.process import write_in_own_process
from hdf5_writer.verify import Findings
from hdf5_writer.viewer.chat import Side, side_of
from hdf5_writer.viewer.dataset import InspectedDataset
from hdf5_writer.viewer.page import rows_page
from hdf5_writer.viewer.row import Row
from hdf5_writer.viewer.terminal import terminal_row
from preprocess.config import ConfigError
from preprocess.square_images import AspectRatio

__all__ = ["DatasetResult", "InspectedRows", "create_dataset", "inspect_rows", "load_config", "verify_dataset"]


@dataclass(frozen=True, repr=False)
class DatasetResult:
    """A finished dataset.

    Attributes:
        output_dir: its folder.
        params: the content of `data_params.json`.
        already_done: whether it was finished before this call.
        report: path of its HTML report; None if the report could not be written.
        too_many_rejects: whether more records were rejected than `setup.max_reject_fraction` allows.
    """

    output_dir: Path
    params: dict[str, Any]
    already_done: bool
    report: Path | None
    too_many_rejects: bool

    @property
    def counts(self) -> dict[str, Any]:
        """Numbers of records: `read`, `written`, `rejected`, `rejected_by_reason`, …"""
        counts: dict[str, Any] = self.params["counts"]
        return counts

    @property
    def rejects(self) -> Iterator[dict[str, Any]]:
        """The rejected records in input order, each with the keys `file`, `line`, `id`, `reason` and `detail`."""
        with OutputLayout(self.output_dir).rejects.open("rb") as lines:
            yield from map(orjson.loads, lines)

    def __repr__(self) -> str:
        counts, shards = self.counts, len(self.params["shards"])
        return (
            f"<DatasetResult {str(self.output_dir)!r}: {counts['read']:,} records read, {counts['written']:,} written "
            f"to {shards} shard(s), {counts['rejected']:,} rejected>"
        )

    def _repr_html_(self) -> str:
        rows = [("folder", str(self.output_dir)), *summary_rows(self.params)]
        rows += [("warning", sentence) for sentence in dataset_warnings(self.params)]
        rows += [] if self.report is None else [("report", str(self.report))]
        return _html_table(rows)


def create_dataset(
    config: Config,
    *,
    limit: int | None = None,
    overwrite: bool = False,
    skip_tasks: Collection[int] = (),
    keep_going: bool = False,
    progress: run.Progress | None = None,
) -> DatasetResult:
    """Write the dataset of a config and its report, or resume an interrupted run; equivalent to `create_hdf5_dataset`.

    Args:
        config: a config from `load_config`.
        limit: maximum number of records to read; None for all.
        overwrite: remove the output of an earlier run from the folder, and start over.
        skip_tasks: tasks to skip; all of their records are rejected.
        keep_going: start even if most of the records checked first would be rejected.
        progress: receives progress events; by default, progress is shown on stderr.

    Raises:
        ConfigError: an argument, the config, inputs, tokenizer or output folder are wrong; the message is one sentence.
        RuntimeError, OSError: the run failed. Finished shards are kept, and the same call resumes it.
    """
    _check_arguments(config, limit, skip_tasks)
    try:
        outcome = run.create_dataset(
            config,
            progress or ConsoleProgress(),
            limit=limit,
            overwrite=overwrite,
            skip_tasks=skip_tasks,
            keep_going=keep_going,
        )
    except TasksFailedError as error:
        raise RuntimeError(explain_failed_tasks(config, error)) from None
    layout = OutputLayout(config.setup.output_dir)
    report: Path | None = layout.report
    if not (outcome.already_done and layout.report.exists()):
        made = write_in_own_process(layout.root)
        for line in [*made.warnings, *([made.problem] if made.problem else [])]:
            print(line, file=sys.stderr)
        report = None if made.problem else layout.report
    counts = outcome.params["counts"]
    return DatasetResult(
        output_dir=layout.root,
        params=outcome.params,
        already_done=outcome.already_done,
        report=report,
        too_many_rejects=counts["rejected"] > config.setup.max_reject_fraction * counts["read"],
    )


def _check_arguments(config: object, limit: object, skip_tasks: object) -> None:
    """Refuse values that the command line cannot give."""
    if not isinstance(config, Config):
        raise ConfigError(f"config is {config!r}, expected a Config; make one with load_config")
    if limit is not None and not _is_whole(limit, 1):
        raise ConfigError(f"limit is {limit!r}, expected a whole number of records of at least 1, or None for all")
    if not isinstance(skip_tasks, Collection) or not all(_is_whole(task, 0) for task in skip_tasks):
        raise ConfigError(f"skip_tasks is {skip_tasks!r}, expected a list of task numbers, from 0")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def verify_dataset(directory: str | Path) -> Findings:
    """Check every byte of a dataset and the invariants of every row; equivalent to `verify_hdf5_dataset`.

    Returns:
        the findings; their list `problems` is empty if every check passed.

    Raises:
        ConfigError: the folder does not exist.
    """
    return verify.verify_dataset(_folder(directory))


class InspectedRows(Sequence[Row]):
    """Rows of a dataset; printed as text, and shown in a notebook as the HTML page of `inspect_hdf5`."""

    def __init__(self, side: Side, rows: list[Row], selection: str) -> None:
        self._side, self._rows, self._selection = side, rows, selection

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return "\n".join(terminal_row(row, self._side.decoder, coloured=False) for row in self._rows)

    def _repr_html_(self) -> str:
        page = rows_page(self._side, self._rows, self._selection).decode()
        return f'<iframe srcdoc="{html.escape(page)}" style="width:100%;height:40em;border:1px solid #8888"></iframe>'


def inspect_rows(
    directory: str | Path,
    rows: int | Iterable[int] = range(3),
    *,
    image_dir: str | Path | None = None,
    tokenizer: str | None = None,
    image_aspect_ratio: AspectRatio = "square",
) -> InspectedRows:
    """Read rows with their tokens, masks and images as stored; equivalent to `inspect_hdf5`.

    Args:
        directory: output folder of a finished run.
        rows: row numbers over all shards, from 0; negative numbers count from the end.
        image_dir: folder of the images, if it has moved since the run.
        tokenizer: folder or Hugging Face name of the tokenizer, if it has moved since the run.
        image_aspect_ratio: show the central square of images (`square`), or pad them to a square (`pad`).

    Raises:
        ConfigError: the folder holds no finished dataset, or a row does not exist.
        OSError: a shard cannot be read.
    """
    dataset = InspectedDataset(_folder(directory))
    numbers = [rows] if isinstance(rows, int) else list(rows)
    total = len(dataset)
    for number in numbers:
        if not -total <= number < total:
            raise ConfigError(f"row {number}: the dataset has {total:,} rows, 0 to {total - 1}")
    side = side_of(
        dataset,
        tokenizer=tokenizer,
        image_dir=None if image_dir is None else Path(image_dir),
        aspect_ratio=image_aspect_ratio,
    )
    found = [dataset.read(number % total) for number in numbers]
    return InspectedRows(side, found, f"{len(found)} of {total:,} rows")


def _folder(directory: str | Path) -> Path:
    folder = Path(directory).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the setup.output_dir of a run")
    return folder


def _html_table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f'<tr><td style="text-align:left">{html.escape(name)}</td>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table>{cells}</table>"
