"""What is in an output folder already: a finished dataset, the beginning of one, another one."""

from __future__ import annotations

import shutil
from typing import Any, NoReturn

from hdf5_writer.inputs import InputFile
from hdf5_writer.layout import OutputLayout
from hdf5_writer.plan import OtherPlanError, Plan, differences, is_unchanged, make_plan, read_plan
from hdf5_writer.publish import DamagedError, publish, seal, unseal
from hdf5_writer.receipts import unfinished_tasks
from hdf5_writer.task import Stages, row_layout
from preprocess.config import Config, ConfigError
from preprocess.tokenizer import load_tokenizer, tokenizer_digest


def make_folders(layout: OutputLayout) -> None:
    """Make the output folder and its work folder.

    Raises:
        ConfigError: they cannot be made.
    """
    try:
        layout.receipt(0).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"setup.output_dir {layout.root}: cannot be made or written ({error.strerror}: {error.filename}); "
            "give a folder you may write to"
        ) from None


def remove_output(layout: OutputLayout) -> None:
    """Remove what runs write, and nothing else that may be in the folder."""
    pages = (layout.report, layout.rows_page)
    for path in [layout.data_params, layout.rejects, *pages, *layout.shards(), *layout.temporaries()]:
        path.unlink(missing_ok=True)
    for path in layout.work.iterdir():
        if path in (layout.lock, layout.planning_lock):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    make_folders(layout)


def finished_dataset(
    config: Config, limit: int | None, layout: OutputLayout, files: list[InputFile]
) -> dict[str, Any] | None:
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
    whole = layout.rejects.exists() and layout.rejects.stat().st_size == params["rejects"]["bytes"]
    return params if params["config_digest"] == plan.digest and whole and not unfinished_tasks(layout, plan) else None


def _refuse(layout: OutputLayout, found: list[str]) -> NoReturn:
    shown = "; ".join(found[:3]) + (f"; and {len(found) - 3} more differences" if len(found) > 3 else "")
    raise OtherPlanError(
        f"setup.output_dir {layout.root}: belongs to another plan ({shown}); "
        "use another folder, or --overwrite to write it anew"
    )


def plan_for(config: Config, limit: int | None, layout: OutputLayout, files: list[InputFile]) -> Plan:
    """The plan of this run: the one in the folder where it still holds, else a new one.

    Raises:
        ConfigError: the inputs cannot be read; OtherPlanError where their content was changed.
    """
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
    make_folders(aside)
    plan = make_plan(config, limit, facts, aside)
    if plan.digest != old.digest:
        shutil.rmtree(aside.root)
        before = {file.path: file for file in old.inputs}
        _refuse(
            layout,
            [f"the content of the input {f.path} was changed" for f in plan.inputs if before[f.path].crc32 != f.crc32],
        )
    # Same content, same index: whichever of these files are in place when this is killed, they agree.
    for path in (aside.offsets, aside.lines, *(aside.unpacked(i) for i in range(len(files)))):
        if path.exists():
            path.replace(layout.work / path.name)
    aside.plan.replace(layout.plan)
    shutil.rmtree(aside.root)
    return plan
