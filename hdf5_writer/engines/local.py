"""Run tasks on any `concurrent.futures.Executor`; survive workers that die.

An executor whose worker dies breaks as a whole (`BrokenExecutor`) and does not say which task was the cause.
So the tasks that were running are tried again one at a time, each in a worker of its own: the innocent finish,
and one that kills its worker again and again is named.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from multiprocessing.connection import wait as wait_for_handles
from typing import Any, TypeVar

from hdf5_writer.task import TaskDone

MOST_DEATHS = 3
_Result = TypeVar("_Result")


class TasksFailedError(RuntimeError):
    """Some tasks killed their worker each time.

    Attributes:
        tasks: their numbers.
        rest_is_done: all other tasks are done; else they were not tried, since workers die before a task begins.
    """

    def __init__(self, tasks: list[int], *, rest_is_done: bool) -> None:
        super().__init__(f"task(s) {', '.join(map(str, tasks))} killed their worker {MOST_DEATHS} times each")
        self.tasks = tasks
        self.rest_is_done = rest_is_done


def run_tasks(
    tasks: Iterable[int],
    run: Callable[[int], TaskDone],
    run_alone: Callable[[int], TaskDone],
    was_begun: Callable[[int], bool],
    make_executor: Callable[[int], Executor],
    workers: int,
    on_done: Callable[[TaskDone], None],
) -> None:
    """Run `run(task)` for every task.

    Args:
        tasks: task numbers, in the order to begin them.
        run: a picklable function.
        run_alone: the same, for a task that may have killed a worker.
        was_begun: whether `run_alone` came to the records of a task before its worker died.
        make_executor: makes an executor of so many workers.
        workers: tasks under way at a time.
        on_done: called in this thread for each finished task.

    Raises:
        TasksFailedError: tasks that killed a worker of their own MOST_DEATHS times; after all others are done, or at
            once where the worker died before it came to a record: so would that of every other task.
        Exception: the first one that a task raised; tasks under way are waited for, the rest not begun.
    """
    waiting = deque(tasks)
    failed: list[int] = []
    while waiting:
        for task in _run_until_broken(waiting, run, make_executor, workers, on_done):
            tries = range(MOST_DEATHS)
            if all(_run_until_broken(deque([task]), run_alone, make_executor, 1, on_done) for _ in tries):
                failed.append(task)
                if not was_begun(task):
                    raise TasksFailedError(sorted(failed), rest_is_done=False)
    if failed:
        raise TasksFailedError(sorted(failed), rest_is_done=True)


def _run_until_broken(
    waiting: deque[int],
    run: Callable[[int], TaskDone],
    make_executor: Callable[[int], Executor],
    workers: int,
    on_done: Callable[[TaskDone], None],
) -> list[int]:
    """Run until nothing waits or a worker dies; the tasks that were under way when one died."""
    executor = make_executor(workers)
    under_way: dict[Future[TaskDone], int] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < workers:
                task = waiting.popleft()
                try:
                    with _no_interrupt_while_spawning(), without_callers_main():
                        under_way[executor.submit(run, task)] = task
                except BrokenExecutor:
                    waiting.appendleft(task)
                    return sorted(under_way.values()) or [waiting.popleft()]
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            broken = []
            for future in done:
                task = under_way.pop(future)
                try:
                    on_done(future.result())
                except Exception as error:
                    if not _is_death(error):
                        raise
                    broken.append(task)
            if broken:
                executor.shutdown()
                return sorted([*broken, *under_way.values()])
    except Exception:
        executor.shutdown()  # tasks under way may finish
        raise
    except BaseException:
        # Whoever interrupts is in a hurry. What the workers had begun stays under temporary names.
        _kill_workers(executor)
        executor.shutdown(wait=False)
        raise
    executor.shutdown()
    return []


@contextlib.contextmanager
def _no_interrupt_while_spawning() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM until a new worker has all that it begins with.

    Ctrl-C reaches the whole process group. A worker that has not begun yet would answer with a traceback: it inherits
    the mask, and `_begin_worker` makes it ignore the signal for good. This process would leave the worker with half of
    what it reads at its start: the mask alone does not help, since any thread, also of a numeric library, may take the
    signal, and Python then runs the handler in the main thread.
    """
    came: list[int] = []
    handlers: dict[signal.Signals, Any] = {}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(handler := signal.getsignal(number)):
                    handlers[number] = handler
                    signal.signal(number, lambda interrupt, _: came.append(interrupt))
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for interrupt in came:
            signal.raise_signal(interrupt)


@contextlib.contextmanager
def without_callers_main() -> Iterator[None]:
    """Processes spawned meanwhile do not import the script that this one runs.

    They need nothing of it; what it imports may be slow, and without `if __name__ == "__main__":` it would begin
    again in each of them. `multiprocessing` looks for a script as `__spec__` and `__file__` of the main module.
    """
    main = sys.modules["__main__"]
    spec, file = main.__spec__, main.__dict__.pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file


def _kill_workers(executor: Executor) -> None:
    """End the processes of a pool, and no other child of the caller."""
    # `ProcessPoolExecutor.kill_workers` does this from Python 3.14 on.
    for process in list((getattr(executor, "_processes", None) or {}).values()):
        process.kill()


def _is_death(error: Exception) -> bool:
    """Whether a worker died under a task. Dask raises an exception of its own, without breaking the executor."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"


def spawn_pool(workers: int) -> ProcessPoolExecutor:
    """Fresh worker processes, which end when this one does, however it does."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)


class WarmedPools:
    """Makes pools, of which the first has workers that are under way already."""

    def __init__(self, workers: int, first: ProcessPoolExecutor) -> None:
        self._workers = workers
        self._first: ProcessPoolExecutor | None = first

    def __call__(self, wanted: int) -> Executor:
        """A pool of at least so many workers."""
        if self._first is None or wanted > self._workers:
            return spawn_pool(wanted)
        first, self._first = self._first, None
        return first

    def run(self, work: Callable[[], _Result]) -> _Result | None:
        """What a picklable function gives in a worker of the first pool; None where the worker died under it."""
        if self._first is None:
            return work()
        try:
            with _no_interrupt_while_spawning(), without_callers_main():
                future = self._first.submit(work)
            return future.result()
        except BrokenExecutor:
            self._first.shutdown()
            self._first = None
            return None

    def close(self) -> None:
        """End the first pool where nobody took it."""
        if self._first is not None:
            _kill_workers(self._first)
            self._first.shutdown()  # not left to its thread, which may trip over the end of the interpreter


@contextlib.contextmanager
def warmed_pools(workers: int, warm_up: Callable[[], object]) -> Iterator[WarmedPools]:
    """A maker of pools, of which the first has `workers` workers that start now: while this process goes on planning.

    Args:
        workers: of the first pool.
        warm_up: a picklable function that each of them runs first; what it raises does not matter.
    """
    first = spawn_pool(workers)
    with _no_interrupt_while_spawning(), without_callers_main():
        for _ in range(workers):
            first.submit(warm_up)
    pools = WarmedPools(workers, first)
    try:
        yield pools
    finally:
        pools.close()


def _begin_worker() -> None:
    # Ctrl-C reaches the whole process group; the main process decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Records are many small objects without cycles: by default, looking for some takes a tenth of the time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """A worker whose parent was killed would wait for work for ever."""
    wait_for_handles([sentinel])
    os._exit(1)
