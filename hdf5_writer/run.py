"""One run from a config to a verified dataset: plan, tasks, reports. Knows nothing of the command line."""

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
from hdf5_writer.planning.inputs import InputFile, alike_but_for_suffix, find_inputs, unread_data
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
    plan_aside,
    plan_for,
    remove_output,
)
from hdf5_writer.stages import warm_up
from hdf5_writer.task import TaskDone, run_task
from preprocess.config import ConfigError
from preprocess.images import require_image_dir


class Progress(Protocol):
    """What a run tells while it goes on."""

    def note(self, sentence: str) -> None:
        """Something the user should know."""

    def planned(self, plan: Plan, done: int, records: int) -> None:
        """The plan is made; so many of this run's tasks were finished before; so many records are to be read."""

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


@dataclass(frozen=True)
class Part:
    """One of several runs that share the tasks of a plan, on one machine or many.

    Attributes:
        index, count: this run takes the tasks whose number leaves `index` when divided by `count`.
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
    """Write the dataset of a config, or what is missing of it.

    Args:
        config: a validated config.
        progress: is told of the plan and of every finished task.
        limit: take the first so many records.
        overwrite: remove what an earlier run wrote into the output folder, once nothing of this one can be refused.
        skip_tasks: tasks to give up: all of their records are rejected.
        keep_going: start even if most of the records checked first would be rejected.
        make_executor: makes the executor the tasks run on, instead of the engine of the config.

    Raises:
        ConfigError: config, inputs, tokenizer or output folder are wrong; OtherPlanError where the folder belongs
            to another plan.
        engine.TasksFailedError, inputs.InputChangedError, OSError, RuntimeError: the run failed. What is finished
            stays, and the same command goes on.
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
    """Run the tasks of one part; `finalize` writes the dataset's own files when all parts are done.

    Parts may run at once, in any order and more than once, with other folders' names and numbers of processes:
    whichever comes first makes the plan, and none changes it while others run. See `create_dataset` for arguments
    and errors.

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
            if layout.plan.exists():  # the others follow the plan of the first
                plan = plan_for(config, limit, layout, files, alone=False)
            else:
                plan = _new_plan(config, limit, layout, skip_tasks, progress, keep_going, engine)
        return _run(layout, plan, range(part.index, plan.tasks, part.count), skip_tasks, progress, engine)


def finalize(config: Config, *, limit: int | None = None) -> Outcome:
    """Write `data_params.json` and `rejects.jsonl` of a dataset whose parts are all done.

    Raises:
        ConfigError: see `create_dataset`; a part is still running.
        RuntimeError: tasks are missing; the message names some.
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
    """Make a plan aside, and put it in place once nothing of it can be refused.

    What `overwrite` removes goes then. Records are looked at in a worker: one that kills it is found and named by its
    task, and must not end this process.
    """
    with plan_aside(config, limit, layout) as plan:
        _refuse_unknown(skip_tasks, plan)
        try:
            for warning in engine.run(functools.partial(probe, plan, layout.aside)) or ():
                progress.note(warning)
        except MostRejectedError as error:
            if not keep_going:
                raise
            progress.note(f"warning: {error}")
        if overwrite:
            remove_output(layout)
        layout.lines.unlink(missing_ok=True)  # of a plan that was given up; this one may have no such file
        adopt_plan(layout)
    return plan


def _inputs(config: Config, progress: Progress) -> list[InputFile]:
    files, others = find_inputs(config.setup.input_dir, config.setup.output_dir)
    unread = unread_data(others)
    if unread:
        shown = ", ".join(unread[:5]) + (", …" if len(unread) > 5 else "")
        progress.note(f"{len(unread)} file(s) beside the inputs are not read: {shown}")
    for one, other in alike_but_for_suffix(files):
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
    """Run those tasks of `mine` that are not done; records read."""
    _refuse_unknown(skip_tasks, plan)
    for sentence in drop_changed_tasks(layout, plan, mine):
        progress.note(sentence)
    tasks = unfinished_tasks(layout, plan, mine)
    if tasks:
        # No data_params.json beside shards that are not all there.
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
            layout.working_on(task).unlink(missing_ok=True)  # of an earlier run
        if left:
            workers = min(engine.workers, len(left))
            run_tasks(
                left,
                run,
                functools.partial(run, traced=True),
                lambda task: layout.working_on(task).exists(),
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
    """What makes executors, and how many tasks to run at a time."""

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
        # How many tasks there will be is not known before the inputs are indexed: about a kilobyte a record.
        likely = sum(file.bytes for file in files) // (setup.samples_per_shard * 1024) + 1
        with warmed_pools(min(processes, likely), functools.partial(warm_up, config)) as make:
            yield _Engine(make, processes, make.run)
