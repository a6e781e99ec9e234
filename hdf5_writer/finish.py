"""Finish a run: check that all tasks are done, and write the files that are derived from the receipts."""

from __future__ import annotations

from typing import Any

from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.index import has_planned_content
from hdf5_writer.planning.inputs import InputChangedError
from hdf5_writer.planning.plan import Plan
from hdf5_writer.publish import publish, seal
from hdf5_writer.receipts import all_receipts, data_params, read_receipt, reject_lines, rejects_digest


def remove_temporaries(layout: OutputLayout) -> None:
    """Remove temporary files of killed runs."""
    for path in layout.temporaries():
        path.unlink(missing_ok=True)


def _check_inputs(layout: OutputLayout, plan: Plan) -> None:
    """Refuse to finish if an input was replaced by a file of the same size and modification time.

    Shards may hold records of both files, so all receipts are removed.
    """
    for path, file in plan.input_paths():
        if file.records and not file.is_compressed and not has_planned_content(path, file, plan.limit):
            for task in range(plan.tasks):
                layout.receipt(task).unlink(missing_ok=True)
            raise InputChangedError(
                f"{path}: its content is not what was planned, though its size and time are the same, so all shards "
                "must be rebuilt; restore the file and rerun, or use --overwrite to use its new content"
            )


def finish(layout: OutputLayout, plan: Plan) -> dict[str, Any]:
    """Check that all tasks are done, and write `rejects.jsonl` and `data_params.json` from the receipts.

    Returns:
        the content of `data_params.json`.

    Raises:
        InputChangedError: an input was replaced during the run.
        FileNotFoundError, publish.DamagedError, RuntimeError: a task is not done, or its shard does not match its
            receipt.
        OSError: a file cannot be written.
    """
    remove_temporaries(layout)  # of workers that died in this run
    for task in range(plan.tasks):
        shard = read_receipt(layout, plan, task)["shard"]
        if layout.shard(task, plan.tasks).stat().st_size != shard["bytes"]:
            raise RuntimeError(f"{layout.shard(task, plan.tasks)}: was changed during the run; rerun the same command")
    names = {layout.shard(task, plan.tasks) for task in range(plan.tasks)}
    foreign = [path for path in layout.shards() if path not in names]
    if foreign:
        raise RuntimeError(f"{foreign[0]}: is not a shard of this dataset; remove it and rerun")
    _check_inputs(layout, plan)
    rejects = rejects_digest(plan, all_receipts(layout, plan))
    params = data_params(plan, all_receipts(layout, plan), rejects)
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
