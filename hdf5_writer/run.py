"""One run from a config to a verified dataset: plan, tasks, reports. Knows nothing of the command line."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

from hdf5_writer.engine import run_tasks, spawn_pool
from hdf5_writer.inputs import InputFile, find_inputs
from hdf5_writer.layout import OutputLayout
from hdf5_writer.lock import locked
from hdf5_writer.plan import OtherPlanError, Plan, differences, is_unchanged, make_plan, read_plan
from hdf5_writer.publish import DamagedError, publish, seal, unseal
from hdf5_writer.receipts import all_receipts, data_params, read_receipt, reject_lines, unfinished_tasks
from hdf5_writer.task import Stages, TaskDone, row_layout, run_task
from preprocess.config import Config, ConfigError
from preprocess.images import require_image_dir
from preprocess.tokenizer import load_tokenizer, tokenizer_digest


class Progress(Protocol):
    """What a run tells while it goes on."""

    def planned(self, plan: Plan, done: int) -> None:
        """The plan is made; so many of its tasks were finished before."""

    def advance(self, task: TaskDone) -> None:
        """A task is finished."""

    def close(self) -> None:
        """No more tasks follow."""


@dataclass(frozen=True)
class Outcome:
    """A finished dataset.

    Attributes:
        params: the content of `data_params.json`.
        already_done: it was finished before this run.
        read: records read by this run.
    """

    params: dict[str, Any]
    already_done: bool
    read: int


def create_dataset(
    config: Config,
    progress: Progress,
    *,
    limit: int | None = None,
    overwrite: bool = False,
    make_executor: Callable[[int], Executor] = spawn_pool,
) -> Outcome:
    """Write the dataset of a config, or what is missing of it.

    Args:
        config: a validated config.
        progress: is told of the plan and of every finished task.
        limit: take the first so many records.
        overwrite: remove what an earlier run wrote into the output folder first.
        make_executor: makes the executor the tasks run on.

    Raises:
        ConfigError: config, inputs, tokenizer or output folder are wrong; OtherPlanError where the folder belongs
            to another plan.
        engine.TasksFailedError, inputs.InputChangedError, OSError, RuntimeError: the run failed. What is finished
            stays, and the same command goes on.
    """
    layout = OutputLayout(config.setup.output_dir)
    files, _ = find_inputs(config.setup.input_dir, config.setup.output_dir)
    require_image_dir(config.dataset)
    _make_folders(layout)
    with locked(layout.lock):
        if overwrite:
            _remove_output(layout)
        finished = _finished(config, limit, layout, files)
        if finished is not None:
            return Outcome(finished, already_done=True, read=0)
        for path in layout.temporaries():
            path.unlink(missing_ok=True)
        plan = _plan(config, limit, layout, files)
        tasks = unfinished_tasks(layout, plan)
        if tasks:
            # No data_params.json beside shards that are not all there.
            layout.data_params.unlink(missing_ok=True)
            layout.report.unlink(missing_ok=True)
        progress.planned(plan, plan.tasks - len(tasks))
        read = 0

        def on_done(task: TaskDone) -> None:
            nonlocal read
            read += task.read
            progress.advance(task)

        try:
            workers = min(config.setup.processes or len(os.sched_getaffinity(0)), len(tasks))
            if tasks:
                run = functools.partial(run_task, str(layout.root), plan.fingerprint)
                run_tasks(tasks, run, make_executor, workers, on_done)
        finally:
            progress.close()
        return Outcome(_finish(layout, plan), already_done=False, read=read)


def _make_folders(layout: OutputLayout) -> None:
    try:
        layout.receipt(0).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"setup.output_dir {layout.root}: cannot be made or written ({error.strerror}: {error.filename}); "
            "give a folder you may write to"
        ) from None


def _remove_output(layout: OutputLayout) -> None:
    """Remove what runs write, and nothing else that may be in the folder."""
    pages = (layout.report, layout.rows_page)
    for path in [layout.data_params, layout.rejects, *pages, *layout.shards(), *layout.temporaries()]:
        path.unlink(missing_ok=True)
    for path in layout.work.iterdir():
        if path == layout.lock:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    _make_folders(layout)


def _finished(config: Config, limit: int | None, layout: OutputLayout, files: list[InputFile]) -> dict[str, Any] | None:
    """The parameters of the folder where this very dataset is there already; else None.

    Looks at names, sizes and digests, so that the answer comes at once; `verify_hdf5_dataset` reads the bytes.

    Raises:
        OtherPlanError: the folder holds another dataset.
    """
    try:
        plan = read_plan(layout)
    except FileNotFoundError:
        if layout.shards() or layout.data_params.exists():
            raise OtherPlanError(
                f"setup.output_dir {layout.root}: holds a dataset, but not the plan it was made by; "
                "use another folder, or --overwrite to write it anew"
            ) from None
        return None
    except DamagedError as error:
        raise OtherPlanError(f"{error}; use --overwrite to write the dataset anew") from None
    found = differences(plan, config, limit, tokenizer_digest(config.processor.tokenizer_type), files)
    if found and not layout.shards():
        layout.plan.unlink()  # a run that wrote nothing, perhaps for the mistake that was mended since
        return None
    if found:
        _refuse(layout, found)
    if not is_unchanged(plan, files, layout):
        return None
    try:
        params = unseal(layout.data_params)
    except (FileNotFoundError, DamagedError):
        return None
    done = params["config_digest"] == plan.digest and layout.rejects.exists() and not unfinished_tasks(layout, plan)
    return params if done else None


def _refuse(layout: OutputLayout, found: list[str]) -> None:
    shown = "; ".join(found[:3]) + (f"; and {len(found) - 3} more differences" if len(found) > 3 else "")
    raise OtherPlanError(
        f"setup.output_dir {layout.root}: belongs to another plan ({shown}); "
        "use another folder, or --overwrite to write it anew"
    )


def _plan(config: Config, limit: int | None, layout: OutputLayout, files: list[InputFile]) -> Plan:
    """The plan of this run: the one in the folder where it still holds, else a new one."""
    stages = Stages(config, load_tokenizer(config.processor.tokenizer_type))
    facts = stages.facts()
    row_layout(config, facts)  # refuses a length that the image does not fit into
    if not layout.plan.exists():
        return make_plan(config, limit, facts, layout)
    old = read_plan(layout)
    unpacked = all(layout.unpacked(i).exists() for i, file in enumerate(old.inputs) if file.is_compressed)
    if is_unchanged(old, files, layout) and unpacked:
        plan = Plan(config, limit, old.inputs, facts, old.index)
        publish(layout.plan, [seal(plan.to_json())])  # folders may have other names now
        return plan
    # Times changed, or the index is gone. Index anew, aside: the content decides whether this is the same plan.
    aside = OutputLayout(layout.work / "replan")
    shutil.rmtree(aside.root, ignore_errors=True)
    _make_folders(aside)
    plan = make_plan(config, limit, facts, aside)
    if plan.digest != old.digest:
        shutil.rmtree(aside.root)
        before = {file.path: file for file in old.inputs}
        _refuse(
            layout,
            [f"the content of the input {f.path} was changed" for f in plan.inputs if before[f.path].crc32 != f.crc32],
        )
    layout.plan.unlink(missing_ok=True)
    for path in (aside.offsets, aside.lines, *(aside.unpacked(i) for i in range(len(files)))):
        if path.exists():
            path.replace(layout.work / path.name)
    aside.plan.replace(layout.plan)
    shutil.rmtree(aside.root)
    return plan


def _finish(layout: OutputLayout, plan: Plan) -> dict[str, Any]:
    """Check that everything is there, and write the two files that are made of the receipts."""
    for task in range(plan.tasks):
        shard = read_receipt(layout, plan, task)["shard"]
        if layout.shard(task, plan.tasks).stat().st_size != shard["bytes"]:
            raise RuntimeError(f"{layout.shard(task, plan.tasks)}: was changed while the run went on; run it again")
    names = {layout.shard(task, plan.tasks) for task in range(plan.tasks)}
    foreign = [path for path in layout.shards() if path not in names]
    if foreign:
        raise RuntimeError(f"{foreign[0]}: is a foreign shard, not part of this dataset; remove it and run again")
    params = data_params(plan, all_receipts(layout, plan))
    counts = params["counts"]
    if not counts["read"] == counts["written"] + counts["rejected"] == plan.records:
        raise RuntimeError(
            f"{plan.records} records planned, {counts['written']} written and {counts['rejected']} rejected: "
            "a record was lost; please report this"
        )
    publish(layout.rejects, reject_lines(plan, all_receipts(layout, plan)))
    publish(layout.data_params, [seal(params, indent=True)])
    for number, file in enumerate(plan.inputs):
        if file.is_compressed:
            layout.unpacked(number).unlink(missing_ok=True)
    return params
