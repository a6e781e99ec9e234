"""Run tasks on any `concurrent.futures.Executor`, and recover from workers that die.

When a worker dies, the whole executor breaks (`BrokenExecutor`) and does not say which task was the cause.
The tasks that were running are therefore retried one at a time, each in its own worker: the others succeed, and a task
that kills its worker repeatedly is reported.
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

MAX_DEATHS = 3
_Result = TypeVar("_Result")


class TasksFailedError(RuntimeError):
    """Some tasks killed their worker process in every attempt.

    Attributes:
        tasks: their numbers.
        rest_is_done: whether all other tasks are done; if not, they were not run, since workers die before they read a
            record.
    """

    def __init__(self, tasks: list[int], *, rest_is_done: bool) -> None:
        super().__init__(f"task(s) {', '.join(map(str, tasks))} killed their worker process {MAX_DEATHS} times each")
        self.tasks = tasks
        self.rest_is_done = rest_is_done


def run_tasks(
    tasks: Iterable[int],
    run: Callable[[int], TaskDone],
    run_isolated: Callable[[int], TaskDone],
    reached_record: Callable[[int], bool],
    make_executor: Callable[[int], Executor],
    workers: int,
    on_done: Callable[[TaskDone], None],
) -> None:
    """Run `run(task)` for every task.

    Args:
        tasks: task numbers, in the order to begin them.
        run: a picklable function.
        run_isolated: the same for a retry; it runs in its own worker.
        reached_record: whether `run_isolated` had reached a record of the task when its worker died.
        make_executor: makes an executor with the given number of workers.
        workers: maximum number of tasks that run at the same time.
        on_done: called in this thread for each finished task.

    Raises:
        TasksFailedError: some tasks killed their worker in MAX_DEATHS retries. Raised after all other tasks are done,
            or at once if the worker died before it reached a record, since this would happen to every task.
        Exception: the first exception that a task raised; running tasks are waited for, the others are not started.
    """
    waiting = deque(tasks)
    failed: list[int] = []
    while waiting:
        for task in _run_until_broken(waiting, run, make_executor, workers, on_done):
            tries = range(MAX_DEATHS)
            if all(_run_until_broken(deque([task]), run_isolated, make_executor, 1, on_done) for _ in tries):
                failed.append(task)
                if not reached_record(task):
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
    """Run tasks until none is left or a worker dies; return the tasks that were running when it died."""
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
                    if not _worker_died(error):
                        raise
                    broken.append(task)
            if broken:
                executor.shutdown()
                return sorted([*broken, *under_way.values()])
    except Exception:
        executor.shutdown()  # let running tasks finish
        raise
    except BaseException:
        # Stop at once after an interrupt. Unfinished output is only in temporary files.
        _kill_workers(executor)
        executor.shutdown(wait=False)
        raise
    executor.shutdown()
    return []


@contextlib.contextmanager
def _no_interrupt_while_spawning() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM until a new worker process has been started completely.

    Ctrl-C reaches the whole process group. A worker that is still starting would print a traceback; it inherits the
    signal mask until `_set_up_worker` makes it ignore the signal. This process, if interrupted now, would leave the
    worker with incomplete start-up data. Masking is not enough here, since any other thread, such as one of a numeric
    library, may receive the signal, and Python then runs the handler in the main thread.
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
    """Prevent processes that are spawned in this context from importing the caller's main script.

    They need nothing from it. Its imports may be slow, and without `if __name__ == "__main__":` each worker would run
    the script again. `multiprocessing` finds the script by `__spec__` and `__file__` of the main module.
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
    """Kill the worker processes of a pool, and no other child process of the caller."""
    # `ProcessPoolExecutor.kill_workers` does this from Python 3.14 on.
    for process in list((getattr(executor, "_processes", None) or {}).values()):
        process.kill()


def _worker_died(error: Exception) -> bool:
    """Return whether the exception means that a worker died while running a task; Dask raises `KilledWorker` then."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"


def spawn_pool(workers: int) -> ProcessPoolExecutor:
    """Make a pool of new worker processes, which exit when this process ends for any reason."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_set_up_worker)


class WarmedPools:
    """Makes process pools; the workers of the first pool are already started."""

    def __init__(self, workers: int, first: ProcessPoolExecutor) -> None:
        self._workers = workers
        self._first: ProcessPoolExecutor | None = first

    def __call__(self, wanted: int) -> Executor:
        """Return a pool with at least `wanted` workers."""
        if self._first is None or wanted > self._workers:
            return spawn_pool(wanted)
        first, self._first = self._first, None
        return first

    def run(self, work: Callable[[], _Result]) -> _Result | None:
        """Return the result of a picklable function run in a worker of the first pool; None if the worker died."""
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
        """Stop the first pool if it was not used."""
        if self._first is not None:
            _kill_workers(self._first)
            self._first.shutdown()  # its thread may fail if it is still running when the interpreter exits


@contextlib.contextmanager
def warmed_pools(workers: int, warm_up: Callable[[], object]) -> Iterator[WarmedPools]:
    """Start the workers of a first pool in the background, while this process makes the plan; yield a pool factory.

    Args:
        workers: number of workers of the first pool.
        warm_up: a picklable function that each worker runs first; its exceptions are ignored.
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


def _set_up_worker() -> None:
    # Ctrl-C reaches the whole process group; only the main process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Records are many small objects without reference cycles; the default collector takes a tenth of the run time.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), daemon=True).start()


def _exit_with_parent(sentinel: int) -> None:
    """Exit when the parent process dies; otherwise the worker would wait for work forever."""
    wait_for_handles([sentinel])
    os._exit(1)
