from __future__ import annotations

import functools
import os
import signal
from pathlib import Path

import pytest
from conftest import InlineExecutor

from hdf5_writer.engine import TasksFailedError, run_tasks, spawn_pool
from hdf5_writer.task import TaskDone


def fine(task: int) -> TaskDone:
    return TaskDone(task, 10, 9)


def failing(task: int) -> TaskDone:
    if task == 3:
        raise OSError(28, "No space left on device")
    return fine(task)


def deadly(folder: Path, killers: tuple[int, ...], deaths: int, task: int) -> TaskDone:
    """Kills its worker the first `deaths` times for the tasks among `killers`."""
    marks = list(folder.glob(f"{task}-*"))
    (folder / f"{task}-{len(marks)}").touch()
    if task in killers and len(marks) < deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return fine(task)


def test_every_task_is_run_once_in_order() -> None:
    done: list[TaskDone] = []
    run_tasks(range(7), fine, fine, InlineExecutor, 3, done.append)
    assert sorted(done) == [fine(task) for task in range(7)]


def test_an_error_of_a_task_stops_the_run() -> None:
    done: list[TaskDone] = []
    with pytest.raises(OSError, match="No space left"):
        run_tasks(range(9), failing, failing, InlineExecutor, 1, done.append)
    assert [task.task for task in done] == [0, 1, 2]


def test_a_worker_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    done: list[TaskDone] = []
    run = functools.partial(deadly, tmp_path, (2, 4), 1)
    run_tasks(range(6), run, run, spawn_pool, 2, done.append)
    assert sorted(done) == [fine(task) for task in range(6)]


def test_a_task_that_kills_its_worker_each_time_is_named_and_the_rest_is_done(tmp_path: Path) -> None:
    done: list[TaskDone] = []
    run = functools.partial(deadly, tmp_path, (1, 4), 99)
    with pytest.raises(TasksFailedError) as error:
        run_tasks(range(6), run, run, spawn_pool, 2, done.append)
    assert error.value.tasks == [1, 4]
    assert sorted(task.task for task in done) == [0, 2, 3, 5]
    # Three times alone, and perhaps once beside others, when it is not known yet who the killer is.
    assert len(list(tmp_path.glob("1-*"))) in (3, 4)
