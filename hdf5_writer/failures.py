"""Explain which record a task was reading when its worker died, and what the user can do."""

from __future__ import annotations

from hdf5_writer.config import Config
from hdf5_writer.engines.local import TasksFailedError
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.plan import read_plan


def explain_failed_tasks(config: Config, error: TasksFailedError) -> str:
    """Describe the failed tasks, where each of them stopped, and what to do."""
    stops = {task: where_task_stopped(config, task) for task in error.tasks}
    where = "; ".join(words for words, _ in stops.values())
    skip = " ".join(f"--skip-task {task}" for task, (_, started) in stops.items() if started)
    advice = (
        f"correct the record, or skip its task with {skip}"
        if skip
        else "no record was being read, so the data is not the cause: check what kills processes on this machine, "
        "such as a memory limit, and run the same command again"
    )
    rest = "All other tasks are done" if error.rest_is_done else "Finished shards are kept"
    return f"{error}: {where}. {rest}; {advice}"


def where_task_stopped(config: Config, task: int) -> tuple[str, bool]:
    """Describe where a task was when its worker last died; also return whether it had started a record."""
    layout = OutputLayout(config.setup.output_dir)
    plan = read_plan(layout)
    files, lines = plan.reader(layout).locate(plan.task_records(task))
    try:
        at = int(layout.current_record(task).read_text())
        where, started = f"at {plan.inputs[files[at]].path}, line {lines[at]}", True
    except (FileNotFoundError, ValueError, IndexError):
        where, started = "before its first record", False
    first, last = int(lines.min()), int(lines.max())
    names = {plan.inputs[number].path for number in (int(files.min()), int(files.max()))}
    span = f"{len(lines)} records between lines {first} and {last} of {' to '.join(sorted(names))}"
    return f"task {task}, {where} (it has {span})", started
