from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from conftest import QUICKSTART, InlineExecutor, turn_pair, write_jsonl

from hdf5_writer.engines.local import TasksFailedError, run_tasks, spawn_pool, warmed_pools
from hdf5_writer.task import TaskDone


def succeed(task: int) -> TaskDone:
    return TaskDone(task, 10, 9)


def always(_: int) -> bool:
    return True


def fail_at_3(task: int) -> TaskDone:
    if task == 3:
        raise OSError(28, "No space left on device")
    return succeed(task)


def kill_worker(folder: Path, killing: tuple[int, ...], deaths: int, task: int) -> TaskDone:
    """Kills its worker the first `deaths` times for the tasks among `killing`."""
    marks = list(folder.glob(f"{task}-*"))
    (folder / f"{task}-{len(marks)}").touch()
    if task in killing and len(marks) < deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return succeed(task)


def test_every_task_is_run_once_in_order() -> None:
    done: list[TaskDone] = []
    run_tasks(range(7), succeed, succeed, always, InlineExecutor, 3, done.append)
    assert sorted(done) == [succeed(task) for task in range(7)]


def test_an_error_of_a_task_stops_the_run() -> None:
    done: list[TaskDone] = []
    with pytest.raises(OSError, match="No space left"):
        run_tasks(range(9), fail_at_3, fail_at_3, always, InlineExecutor, 1, done.append)
    assert [task.task for task in done] == [0, 1, 2]


@pytest.mark.slow
def test_a_worker_that_dies_once_loses_no_task(tmp_path: Path) -> None:
    done: list[TaskDone] = []
    run = functools.partial(kill_worker, tmp_path, (2, 4), 1)
    run_tasks(range(6), run, run, always, spawn_pool, 2, done.append)
    assert sorted(done) == [succeed(task) for task in range(6)]


@pytest.mark.faults
def test_a_task_that_always_kills_its_worker_is_named_and_the_others_finish(tmp_path: Path) -> None:
    done: list[TaskDone] = []
    run = functools.partial(kill_worker, tmp_path, (1, 4), 99)
    with pytest.raises(TasksFailedError) as error:
        run_tasks(range(6), run, run, always, spawn_pool, 2, done.append)
    assert error.value.tasks == [1, 4]
    assert sorted(task.task for task in done) == [0, 2, 3, 5]
    # Three times alone, and at most once with others, before the cause is known.
    assert len(list(tmp_path.glob("1-*"))) in (3, 4)


@pytest.mark.slow
def test_workers_that_die_before_any_record_stop_the_run_at_the_first_task(tmp_path: Path) -> None:
    run = functools.partial(kill_worker, tmp_path, tuple(range(6)), 99)
    with pytest.raises(TasksFailedError) as error:
        run_tasks(range(6), run, run, lambda _: False, spawn_pool, 1, print)
    assert error.value.tasks == [0]
    assert not error.value.rest_is_done
    assert {path.name[0] for path in tmp_path.iterdir()} == {"0"}


@contextlib.contextmanager
def child_of_the_caller() -> Iterator[BaseProcess]:
    child = multiprocessing.get_context("spawn").Process(target=signal.pause)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


@pytest.mark.slow
def test_an_interrupt_stops_the_workers_and_no_other_child() -> None:
    def interrupt(_: TaskDone) -> None:
        raise KeyboardInterrupt

    with child_of_the_caller() as child:
        with pytest.raises(KeyboardInterrupt):
            run_tasks(range(9), succeed, succeed, always, spawn_pool, 1, interrupt)
        for process in multiprocessing.active_children():
            if process is not child:
                process.join(30)
        assert multiprocessing.active_children() == [child]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_a_worker_starts_waits_until_it_has_started(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also if a thread of a library, unknown to the caller, receives the signal."""
    started: list[int] = []
    spawn = multiprocessing.util.spawnv_passfds

    def spawn_and_interrupt(path: bytes, arguments: list[str], descriptors: list[int]) -> int:
        child = spawn(path, arguments, descriptors)
        if any("spawn_main" in str(argument) for argument in arguments):
            started.append(child)
            os.kill(os.getpid(), number)
        return child

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", spawn_and_interrupt)
    before = signal.signal(number, interrupt)
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_tasks(range(3), succeed, succeed, always, spawn_pool, 1, print)
    finally:
        stop.set()
        other.join()
        signal.signal(number, before)
    for process in multiprocessing.active_children():
        process.join(30)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(started[0], 0)
    assert "Traceback" not in capfd.readouterr().err


def test_an_unused_warm_pool_exits_by_itself() -> None:
    with child_of_the_caller() as child:
        with contextlib.suppress(ValueError), warmed_pools(1, os.getpid):
            raise ValueError("the config is wrong")
        assert multiprocessing.active_children() == [child]


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_not_rerun_in_workers(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"conversations": turn_pair("Q?", "A.")}] * 3)
    script = tmp_path / "script.py"
    script.write_text(
        f"""
print("begun", flush=True)
from hdf5_writer.progress import ConsoleProgress
from hdf5_writer.run import create_dataset
from hdf5_writer.config import read_config

config = read_config("quickstart.yaml", [
    "setup.input_dir={tmp_path / "in"}", "setup.output_dir={tmp_path / "out"}", "setup.processes=1",
    "processor.tokenizer_type={QUICKSTART / "tokenizer"}", "setup.samples_per_shard=2",
])
print(create_dataset(config, ConsoleProgress()).params["counts"]["written"], __file__)
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"begun\n3 {script}\n"
