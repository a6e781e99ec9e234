"""Verify a dataset: checksums, agreement of plan, receipts and shards, and the invariants of every row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from hdf5_writer.data_params import DataParams, DataParamsError, ShardEntry, read_data_params
from hdf5_writer.invariants import content_problems, row_problems, table_problems
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.plan import Plan, read_plan
from hdf5_writer.publish import DamagedError, is_whole_page, seal, sha256_of
from hdf5_writer.receipts import all_receipts, data_params, read_receipt, rejects_digest
from hdf5_writer.schema import CONTENT_DATA, DATASETS, SchemaError, ShardSize, check_version
from hdf5_writer.tables import read_tables, tables_of_rows
from preprocess.regular_files import NotRegularError, unreadable

_ROWS_AT_ONCE = 512
_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Findings:
    """Result of `verify_dataset`.

    Attributes:
        problems: one sentence each; empty if every check passed.
        notes: checks that were skipped, and why.
        shards, rows: numbers of shards and rows that were checked.
    """

    problems: list[str]
    notes: list[str]
    shards: int
    rows: int


def verify_dataset(root: Path) -> Findings:
    """Check a whole output folder, reading every byte.

    If the hidden work folder exists, samples and rejects are also compared with the plan: each record must occur
    exactly once. Without it, the shards are only compared with `data_params.json`. The HTML pages may be missing; they
    are not part of the dataset. The content of lock files is not checked; it is only informative.

    Raises:
        OSError: a file other than a shard cannot be read; a shard that cannot be read is a problem.
    """
    layout = OutputLayout(root)
    problems: list[str] = []
    notes: list[str] = []
    params = _read_params(layout, problems)
    plan = None
    if not layout.work.is_dir():
        notes.append(f"{layout.work} does not exist, so rows are not compared with the plan")
    else:
        try:
            plan = read_plan(layout)
            check_version(plan.schema_version, layout.plan)
        except (FileNotFoundError, DamagedError, SchemaError) as error:
            problems.append(_missing(error))
    if plan is not None:
        _check_plan(layout, plan, problems)
    expected = params.shards if params else []
    if plan is not None or params:
        names = {shard.name for shard in expected}
        if plan is not None:
            names = {layout.shard(task, plan.tasks).name for task in range(plan.tasks)}
        foreign = (path for path in layout.shards() if path.name not in names)
        problems += [f"{path}: is not a shard of this dataset" for path in foreign]
    if params and _sha256(layout.rejects) != params.rejects.sha256:
        problems.append(f"{layout.rejects}: is missing, or does not match its checksum")
    for page, command in ((layout.report, "create_hdf5_dataset"), (layout.rows_page, "inspect_hdf5")):
        if page.exists() and not is_whole_page(page):
            problems.append(f"{page}: is damaged; remove it and rerun {command}, which rewrites it")
    rows = 0
    if params:
        for task, shard in enumerate(expected):
            found, count = _check_shard(layout, params, shard, plan, task)
            problems += found
            rows += count
    return Findings(problems, notes, len(expected), rows)


def _read_params(layout: OutputLayout, problems: list[str]) -> DataParams | None:
    try:
        return read_data_params(layout)
    except FileNotFoundError:
        problems.append(f"{layout.data_params}: is missing: the run did not finish; run its command again")
    except DataParamsError as error:
        problems.append(str(error))
    return None


def _missing(error: Exception) -> str:
    return f"{error.filename}: is missing" if isinstance(error, FileNotFoundError) else str(error)


def _check_plan(layout: OutputLayout, plan: Plan, problems: list[str]) -> None:
    """Check the index, the receipts, and the two files that are derived from the receipts."""
    for path, digest in ((layout.offsets, plan.index.offsets), (layout.lines, plan.index.lines)):
        if digest is not None and _sha256(path) != digest:
            problems.append(f"{path}: is missing or damaged")
    missing = damaged = 0
    for task in range(plan.tasks):
        try:
            read_receipt(layout, plan, task)
        except FileNotFoundError:
            missing += 1
        except DamagedError as error:
            damaged += 1
            problems.append(str(error))
    if missing:
        problems.append(
            f"{layout.receipt(0).parent}: {missing} of {plan.tasks} tasks have no receipt: the run is not finished"
        )
    if missing or damaged:
        return
    rejects = rejects_digest(plan, all_receipts(layout, plan))
    params = data_params(plan, all_receipts(layout, plan), rejects)
    counts = params["counts"]
    if counts["read"] != counts["written"] + counts["rejected"] or counts["read"] != plan.records:
        problems.append(
            f"{plan.records} records planned, {counts['read']} read, {counts['written']} written, "
            f"{counts['rejected']} rejected: these do not add up"
        )
    if _sha256(layout.data_params) not in (None, hashlib.sha256(seal(params, indent=True)).hexdigest()):
        problems.append(f"{layout.data_params}: does not match the plan and the receipts")


def _check_shard(
    layout: OutputLayout, params: DataParams, shard: ShardEntry, plan: Plan | None, task: int
) -> tuple[list[str], int]:
    path = layout.root / shard.name
    problems = []
    if not path.is_file():
        return [f"{path}: is missing"], 0
    try:
        if path.stat().st_size != shard.bytes:
            problems.append(f"{path}: has {path.stat().st_size} bytes, expected {shard.bytes}")
        elif _sha256(path) != shard.sha256:
            problems.append(f"{path}: its sha256 is not the one in data_params.json")
    except PermissionError as error:
        return [f"{path}: {unreadable(error, '')}"], 0
    sources = None
    if plan is not None:
        try:
            sources = _expected_sources(layout, plan, task)
        except (FileNotFoundError, DamagedError, ValueError, IndexError, OSError):
            sources = None  # already reported as a problem of the plan
    try:
        with h5py.File(path, "r") as file:
            problems += [f"{path}: {problem}" for problem in _check_file(file, params, shard.size, sources)]
    except (OSError, KeyError, RuntimeError, SchemaError) as error:
        problems.append(f"{path}: HDF5 cannot read it ({' '.join(str(error).split())})")
        return problems, 0
    return problems, shard.rows


def _expected_sources(layout: OutputLayout, plan: Plan, task: int) -> tuple[_Array, _Array]:
    """Return (file, line) of each sample of a task: the planned records without the rejected ones."""
    files, lines = plan.reader(layout).locate(plan.task_records(task))
    numbers = {file.path: number for number, file in enumerate(plan.inputs)}
    rejected = {(numbers[r["file"]], r["line"]) for r in read_receipt(layout, plan, task)["rejects"]}
    if rejected:
        kept = np.array([key not in rejected for key in zip(files.tolist(), lines.tolist(), strict=True)])
        files, lines = files[kept], lines[kept]
    return files, lines


def _check_file(
    file: h5py.File, params: DataParams, size: ShardSize, sources: tuple[_Array, _Array] | None
) -> Iterator[str]:
    """Yield the problems of one open shard."""
    check_version(file.attrs.get("schema_version"), file.filename)
    found = list(params.shard_problems(file, size))
    if not found:
        tables = read_tables(file)
        found = list(table_problems(tables, size))
    if found:
        yield from found
        return
    written = tables["samples/source_file"], tables["samples/source_line"]
    if sources is not None and not _same_sources(written, sources, params):
        yield "samples/source_file and samples/source_line do not match the plan"
    wide = [name for name, spec in DATASETS.items() if spec.entry == "positions"]
    for start in range(0, size.rows, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, size.rows)
        block = {name: file[name][start:stop] for name in wide} | tables_of_rows(tables, start, stop)
        for problem, broken in row_problems(block, params):
            at = np.flatnonzero(broken)
            if len(at):
                yield f"row {start + int(at[0])}: {problem}{f' (and {len(at) - 1} more rows)' if len(at) > 1 else ''}"
    yield from content_problems(tables, file[CONTENT_DATA], params)


def _same_sources(found: tuple[_Array, _Array], expected: tuple[_Array, _Array], params: DataParams) -> bool:
    """Return whether the sources match the plan; their order is compared too, unless the samples are packed."""
    if params.packing != "none":
        found, expected = _sorted(found), _sorted(expected)
    return all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def _sorted(sources: tuple[_Array, _Array]) -> tuple[_Array, _Array]:
    files, lines = sources
    order = np.lexsort((lines, files))
    return files[order], lines[order]


def _sha256(path: Path) -> str | None:
    """Return the hex sha256 of a file; None if it is missing or not a regular file."""
    try:
        return sha256_of(path)
    except (FileNotFoundError, NotRegularError):
        return None
