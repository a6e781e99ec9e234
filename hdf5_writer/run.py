"""Run the pipeline from a config to a verified dataset: plan, tasks, final files. Independent of the command line."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

from hdf5_writer.config import Config
from hdf5_writer.engines.local import run_tasks, warmed_pools
from hdf5_writer.finish import finish, remove_temporaries
from hdf5_writer.image_changes import drop_changed_tasks
from hdf5_writer.layout import OutputLayout
from hdf5_writer.lock import BusyError, locked
from hdf5_writer.planning.inputs import InputFile, find_inputs, inputs_with_same_stem, unread_data
from hdf5_writer.planning.plan import Plan
from hdf5_writer.planning.probe import MostRejectedError, probe
from hdf5_writer.receipts import (
    unfinished_tasks,
)
from hdf5_writer.resume import (
    adopt_plan,
    drop_unused_plan,
    finished_dataset,
    make_folders,
    plan_for,
    remove_output,
    staged_plan,
)
from hdf5_writer.stages import warm_up
from hdf5_writer.task import TaskDone, run_task
from preprocess.config import ConfigError
from preprocess.images import require_image_dir


class Progress(Protocol):
    """Receives the progress events of a run."""

    def note(self, sentence: str) -> None:
        """Called with a note or warning for the user."""

    def planned(self, plan: Plan, done: int, records: int) -> None:
        """Called when the plan is ready; `done` tasks of this run are finished already, `records` are left to read."""

    def advance(self, task: TaskDone) -> None:
        """Called for every finished task."""

    def close(self) -> None:
        """Called after the last task."""


@dataclass(frozen=True)
class Outcome:
    """A finished dataset.

    Attributes:
        params: the content of `data_params.json`.
        already_done: whether it was finished before this run.
        read: records read by this run.
    """

    params: dict[str, Any]
    already_done: bool
    read: int


@dataclass(frozen=True)
class Part:
    """One of several runs that share the tasks of a plan, on one machine or many.

    Attributes:
        index, count: this run takes tasks `index`, `index + count`, `index + 2 * count`, …
    """

    index: int
    count: int


def create_dataset(
    config: Config,
    progress: Progress,
    *,
    limit: int | None = None,
    overwrite: bool = False,
    skip_tasks: Collection[int] = (),
    keep_going: bool = False,
    make_executor: Callable[[int], Executor] | None = None,
) -> Outcome:
    """Write the dataset of a config, or resume an interrupted run.

    Args:
        config: a validated config.
        progress: receives progress events.
        limit: maximum number of records to read; None for all.
        overwrite: remove the output of an earlier run from the folder, after all checks of this run have passed.
        skip_tasks: tasks to skip; all of their records are rejected.
        keep_going: start even if most of the records checked first would be rejected.
        make_executor: makes the executor that runs the tasks, instead of the engine of the config.

    Raises:
        ConfigError: config, inputs, tokenizer or output folder are wrong.
        resume.OtherPlanError: the output folder belongs to a different plan.
        engine.TasksFailedError, inputs.InputChangedError, OSError, RuntimeError: the run failed. Finished shards are
            kept, and a rerun resumes it.
    """
    layout = OutputLayout(config.setup.output_dir)
    files = _inputs(config, progress)
    require_image_dir(config.dataset)
    make_folders(layout)
    with locked(layout.lock):
        remove_temporaries(layout)
        if not overwrite:
            drop_unused_plan(config, limit, layout, files)
            finished = finished_dataset(config, limit, layout, files)
            if finished is not None:
                return Outcome(finished, already_done=True, read=0)
        with _engine(config, make_executor, files) as engine:
            if overwrite or not layout.plan.exists():
                plan = _new_plan(config, limit, layout, skip_tasks, progress, keep_going, engine, overwrite=overwrite)
            else:
                plan = plan_for(config, limit, layout, files)
            read = _run(layout, plan, range(plan.tasks), skip_tasks, progress, engine)
        return Outcome(finish(layout, plan), already_done=False, read=read)


def create_part(
    config: Config,
    progress: Progress,
    part: Part,
    *,
    limit: int | None = None,
    skip_tasks: Collection[int] = (),
    keep_going: bool = False,
    make_executor: Callable[[int], Executor] | None = None,
) -> int:
    """Run the tasks of one part; `finalize` writes the files of the whole dataset when all parts are done.

    Parts may run at the same time, in any order and repeatedly, with different folder names and numbers of processes.
    The first one makes the plan; it is not changed while others run. See `create_dataset` for arguments and errors.

    Returns:
        records read.
    """
    layout = OutputLayout(config.setup.output_dir)
    files = _inputs(config, progress)
    require_image_dir(config.dataset)
    make_folders(layout)
    with _engine(config, make_executor, files) as engine, contextlib.ExitStack() as held:
        with locked(layout.planning_lock, wait=True):
            with contextlib.suppress(BusyError), locked(layout.lock):
                drop_unused_plan(config, limit, layout, files)
            held.enter_context(locked(layout.lock, shared=True))
            finished = finished_dataset(config, limit, layout, files)
            if finished is not None:
                return 0
            if layout.plan.exists():  # made by another part
                plan = plan_for(config, limit, layout, files, exclusive=False)
            else:
                plan = _new_plan(config, limit, layout, skip_tasks, progress, keep_going, engine)
        return _run(layout, plan, range(part.index, plan.tasks, part.count), skip_tasks, progress, engine)


def finalize(config: Config, *, limit: int | None = None) -> Outcome:
    """Write `data_params.json` and `rejects.jsonl` of a dataset whose parts are all done.

    Raises:
        ConfigError: see `create_dataset`; or a part is still running.
        RuntimeError: some tasks are not done; the message names some of them.
    """
    layout = OutputLayout(config.setup.output_dir)
    files, _ = find_inputs(config.setup.input_dir, config.setup.output_dir)
    make_folders(layout)
    with locked(layout.lock):
        finished = finished_dataset(config, limit, layout, files)
        if finished is not None:
            return Outcome(finished, already_done=True, read=0)
        plan = plan_for(config, limit, layout, files)
        missing = unfinished_tasks(layout, plan)
        if missing:
            shown = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
            raise RuntimeError(
                f"{len(missing)} of {plan.tasks} tasks are not done ({shown}); run their --task-slice again, "
                "then --finalize"
            )
        return Outcome(finish(layout, plan), already_done=False, read=0)


def _new_plan(
    config: Config,
    limit: int | None,
    layout: OutputLayout,
    skip_tasks: Collection[int],
    progress: Progress,
    keep_going: bool,
    engine: _Engine,
    *,
    overwrite: bool = False,
) -> Plan:
    """Make a plan in a separate folder, and move it into place after all checks have passed.

    With `overwrite`, the old output is removed only then. The sampled records are checked in a worker, since a record
    may crash the process; its task will report it.
    """
    with staged_plan(config, limit, layout) as plan:
        _refuse_unknown(skip_tasks, plan)
        try:
            for warning in engine.run(functools.partial(probe, plan, layout.staging)) or ():
                progress.note(warning)
        except MostRejectedError as error:
            if not keep_going:
                raise MostRejectedError(f"{error}, or give --keep-going to start anyway") from None
            progress.note(f"warning: {error}")
        if overwrite:
            remove_output(layout)
        layout.lines.unlink(missing_ok=True)  # of an earlier plan; the new one may not have this file
        adopt_plan(layout)
    return plan


def _inputs(config: Config, progress: Progress) -> list[InputFile]:
    files, others = find_inputs(config.setup.input_dir, config.setup.output_dir)
    unread = unread_data(others)
    if unread:
        shown = ", ".join(unread[:5]) + (", …" if len(unread) > 5 else "")
        progress.note(f"{len(unread)} file(s) in the input folder are not read: {shown}")
    for one, other in inputs_with_same_stem(files):
        progress.note(f"warning: both {one} and {other} are read; if they hold the same records, remove one of them")
    return files


def _run(
    layout: OutputLayout,
    plan: Plan,
    mine: range,
    skip_tasks: Collection[int],
    progress: Progress,
    engine: _Engine,
) -> int:
    """Run the tasks of `mine` that are not done; return the number of records read."""
    _refuse_unknown(skip_tasks, plan)
    for sentence in drop_changed_tasks(layout, plan, mine):
        progress.note(sentence)
    tasks = unfinished_tasks(layout, plan, mine)
    if tasks:
        # data_params.json exists only if all shards exist.
        layout.data_params.unlink(missing_ok=True)
        layout.report.unlink(missing_ok=True)
    progress.planned(plan, len(mine) - len(tasks), sum(plan.records_of(task) for task in tasks))
    read = 0

    def on_done(task: TaskDone) -> None:
        nonlocal read
        read += task.read
        progress.advance(task)

    run = functools.partial(run_task, str(layout.root.resolve()), plan)
    try:
        for task in tasks:
            if task in skip_tasks:
                on_done(run(task, skip=True))
        left = [task for task in tasks if task not in skip_tasks]
        for task in left:
            layout.current_record(task).unlink(missing_ok=True)  # of an earlier run
        if left:
            workers = min(engine.workers, len(left))
            run_tasks(
                left,
                run,
                functools.partial(run, traced=True),
                lambda task: layout.current_record(task).exists(),
                engine.make_executor,
                workers,
                on_done,
            )
    finally:
        progress.close()
    return read


def _refuse_unknown(skip_tasks: Collection[int], plan: Plan) -> None:
    unknown = [task for task in skip_tasks if task >= plan.tasks]
    if unknown:
        raise ConfigError(f"--skip-task {unknown[0]}: the tasks of this plan are 0 to {plan.tasks - 1}")


@dataclass(frozen=True)
class _Engine:
    """A factory of executors, the number of tasks to run at a time, and a function that runs work in a worker."""

    make_executor: Callable[[int], Executor]
    workers: int
    run: Callable[[Callable[[], Any]], Any] = lambda work: work()


@contextlib.contextmanager
def _engine(
    config: Config, make_executor: Callable[[int], Executor] | None, files: list[InputFile]
) -> Iterator[_Engine]:
    setup = config.setup
    processes = setup.processes or len(os.sched_getaffinity(0))
    if make_executor is not None:
        yield _Engine(make_executor, processes)
    elif setup.engine == "dask":
        from hdf5_writer.engines.dask import dask_executors

        with dask_executors(setup) as (make, threads):
            yield _Engine(make, threads)
    else:
        # The number of tasks is known only after indexing; estimate it with 1 kB per record.
        likely = sum(file.bytes for file in files) // (setup.samples_per_shard * 1024) + 1
        with warmed_pools(min(processes, likely), functools.partial(warm_up, config)) as make:
            yield _Engine(make, processes, make.run)
