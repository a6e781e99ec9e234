"""Decide how to continue in an output folder: reuse a finished dataset, resume an interrupted run, or refuse."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from hdf5_writer.config import Config
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.inputs import InputFile
from hdf5_writer.planning.plan import (
    OtherPlanError,
    Plan,
    TokenizerParams,
    differences,
    is_unchanged,
    make_plan,
    pixels_made_by,
    read_plan,
)
from hdf5_writer.publish import DamagedError, publish, seal, unseal
from hdf5_writer.receipts import unfinished_tasks
from hdf5_writer.stages import Stages, row_layout
from preprocess.config import ConfigError
from preprocess.templates.jinja.source import chat_template_digest
from preprocess.tokenize.folder import tokenizer_digest


def make_folders(layout: OutputLayout) -> None:
    """Create the output folder and its work folder.

    Raises:
        ConfigError: they cannot be created.
    """
    try:
        layout.receipt(0).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(layout, error, error.filename) from None


def refuse_unusable(layout: OutputLayout) -> None:
    """Check without writing to it that `make_folders` can create the output folder and write there.

    Raises:
        ConfigError: see `make_folders`.
    """
    folder = layout.receipt(0).parent
    while not os.path.lexists(folder):
        folder = folder.parent
    try:
        # Permissions do not tell everything, for example in /proc or on a read-only file system.
        with tempfile.TemporaryDirectory(dir=folder):
            pass
    except OSError as error:
        raise _unusable(layout, error, folder) from None


def refuse_other_plan(config: Config, limit: int | None, layout: OutputLayout, files: list[InputFile]) -> None:
    """Refuse an output folder that a run would refuse; changes nothing.

    Raises:
        OtherPlanError: the folder has shards of a different plan, or files of an output without a plan.
    """
    plan = _existing_plan(layout)
    if plan is not None and layout.shards() and (found := _differences(plan, config, limit, files)):
        _refuse(layout, found)


def _unusable(layout: OutputLayout, error: OSError, place: str | Path) -> ConfigError:
    return ConfigError(
        f"setup.output_dir {layout.root}: cannot be created or written ({error.strerror}: {place}); "
        "give a folder with write permission"
    )


def remove_output(layout: OutputLayout) -> None:
    """Remove the files that runs write, except locks and the plan in `staging`; files of the user stay."""
    pages = (layout.report, layout.rows_page)
    for path in [layout.data_params, layout.rejects, *pages, *layout.shards(), *layout.temporaries()]:
        path.unlink(missing_ok=True)
    for path in layout.work.iterdir():
        if path in (layout.lock, layout.planning_lock, layout.staging.root):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    make_folders(layout)


def finished_dataset(
    config: Config, limit: int | None, layout: OutputLayout, files: list[InputFile]
) -> dict[str, Any] | None:
    """Return the content of `data_params.json` if the folder holds this dataset, finished; otherwise None.

    Compares names, sizes and digests only, which is fast; `verify_hdf5_dataset` reads the bytes.

    Raises:
        OtherPlanError: the folder holds a different dataset.
    """
    plan = _existing_plan(layout)
    if plan is None:
        return None
    found = _differences(plan, config, limit, files)
    if found:
        _refuse(layout, found)
    if not is_unchanged(plan, files, layout):
        return None
    try:
        params = unseal(layout.data_params)
    except (FileNotFoundError, DamagedError):
        return None
    whole = layout.rejects.exists() and layout.rejects.stat().st_size == params["rejects"]["bytes"]
    return params if params["plan_digest"] == plan.digest and whole and not unfinished_tasks(layout, plan) else None


def drop_unused_plan(config: Config, limit: int | None, layout: OutputLayout, files: list[InputFile]) -> None:
    """Remove a different plan whose run wrote no shard, for example because of a config mistake corrected since.

    The caller must hold the exclusive lock: another run that has just started has no shard yet either.

    Raises:
        OtherPlanError: there are files with the names of an output, and the plan is missing or damaged.
    """
    plan = _existing_plan(layout)
    if plan is not None and not layout.shards() and _differences(plan, config, limit, files):
        layout.plan.unlink()


def _existing_plan(layout: OutputLayout) -> Plan | None:
    try:
        return read_plan(layout)
    except FileNotFoundError:
        outputs = (*layout.shards(), layout.data_params, layout.rejects, layout.report)
        found = next((path.name for path in outputs if os.path.lexists(path)), None)
        if found is not None:
            raise OtherPlanError(
                f"setup.output_dir {layout.root}: holds {found}, but not the plan of the run that wrote it; "
                "use another folder, or --overwrite to replace it"
            ) from None
        return None
    except DamagedError as error:
        raise OtherPlanError(f"{error}; use --overwrite to rewrite the dataset") from None


def _differences(plan: Plan, config: Config, limit: int | None, files: list[InputFile]) -> list[str]:
    tokenizer = config.processor.tokenizer_type
    found = differences(plan, config, limit, tokenizer_digest(tokenizer), files)
    if not found and plan.tokenizer.chat_template != chat_template_digest(config.dataset, tokenizer):
        found.append("the text of the chat template has changed")
    return found


def _refuse(layout: OutputLayout, found: list[str]) -> NoReturn:
    shown = "; ".join(found[:3]) + (f"; and {len(found) - 3} more differences" if len(found) > 3 else "")
    raise OtherPlanError(
        f"setup.output_dir {layout.root}: belongs to a different plan ({shown}); "
        "use another folder, or --overwrite to rewrite it"
    )


def plan_for(
    config: Config, limit: int | None, layout: OutputLayout, files: list[InputFile], *, exclusive: bool = True
) -> Plan:
    """Return the plan of this run: the plan in the folder if it is still valid, otherwise a new one.

    Args:
        config, limit, layout: those of this run.
        files: the current inputs.
        exclusive: no other run uses the folder. Otherwise an existing plan file is not rewritten, although the plan of
            this run may differ from it in folder names and file times.

    Raises:
        ConfigError: the inputs cannot be read.
        OtherPlanError: their content has changed.
    """
    if not layout.plan.exists():
        return make_plan(config, limit, tokenizer_params(config), layout)
    old = read_plan(layout)
    unpacked = all(layout.unpacked(i).exists() for i, file in enumerate(old.inputs) if file.is_compressed)
    if is_unchanged(old, files, layout) and unpacked:
        made_by = pixels_made_by(config)
        plan = Plan(config, limit, old.inputs, tokenizer_params(config), old.index, pixels_by=made_by)
        if exclusive and plan.to_json() != old.to_json():
            publish(layout.plan, [seal(plan.to_json())])  # folder names may have changed
        return plan
    # File times changed or the index is missing. Index again in `staging`: if the content is the same, so is the plan.
    with staged_plan(config, limit, layout) as plan:
        if plan.digest != old.digest:
            crcs = {file.path: file.crc32 for file in old.inputs}
            changed = [file.path for file in plan.inputs if crcs[file.path] != file.crc32]
            _refuse(layout, [f"the content of the input {path} was changed" for path in changed])
        if not exclusive:
            layout.staging.plan.unlink()
        adopt_plan(layout)
    return plan


def tokenizer_params(config: Config) -> TokenizerParams:
    """Load the tokenizer and the template, and return their properties that the plan records.

    Raises:
        ConfigError: the tokenizer cannot be used, or the image does not fit into max_sequence_length.
    """
    facts = Stages.for_planning(config).tokenizer_params()
    row_layout(config, facts)
    return facts


@contextlib.contextmanager
def staged_plan(config: Config, limit: int | None, layout: OutputLayout) -> Iterator[Plan]:
    """Make a plan in `layout.staging` without changing the current one; it is removed unless `adopt_plan` moves it.

    Raises:
        ConfigError: see `tokenizer_params` and `plan.make_plan`.
    """
    facts = tokenizer_params(config)
    shutil.rmtree(layout.staging.root, ignore_errors=True)
    make_folders(layout.staging)
    try:
        yield make_plan(config, limit, facts, layout.staging)
    finally:
        shutil.rmtree(layout.staging.root, ignore_errors=True)


def adopt_plan(layout: OutputLayout) -> None:
    """Move the plan in `layout.staging` and its index to their final place.

    Safe to kill at any point: the folder has either no plan or one with the same content, so old and new files are
    consistent.
    """
    staging = layout.staging
    found = [path for path in staging.work.iterdir() if path.is_file() and path != staging.plan]
    for path in found:
        path.replace(layout.work / path.name)
    if staging.plan.exists():
        staging.plan.replace(layout.plan)
