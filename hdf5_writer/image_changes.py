"""Detect images that changed after finished shards of an interrupted run were written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import h5py

from hdf5_writer.image_spool import ImageFact, facts_digest
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.plan import Plan
from hdf5_writer.publish import DamagedError, sha256_of
from hdf5_writer.receipts import read_receipt
from preprocess.rejects import shorten


def drop_changed_tasks(layout: OutputLayout, plan: Plan, among: range) -> Iterator[str]:
    """Remove the receipts of tasks whose images have changed since they were read, so that these tasks run again.

    Compares sizes and modification times, with one `stat` per image; if any differs, reads the images of the task and
    compares their sha256.

    Yields:
        one sentence for each such task.
    """
    folder = plan.local_config().dataset.image_dir
    if plan.config.dataset.check_images != "decode" or folder is None:
        return
    for task in among:
        try:
            digest = read_receipt(layout, plan, task)["images"]
            with h5py.File(layout.shard(task, plan.tasks), "r") as file:
                paths = [path.decode() for path in file["images/path"][:]]
                contents = file["contents/sha256"][:][file["images/content"][:]]
        except (DamagedError, OSError, KeyError):
            continue  # missing receipts and damaged shards are handled by other checks
        if facts_digest(set(_facts(folder, paths))) == digest:
            continue
        known = dict(zip(paths, (content.tobytes().hex() for content in contents), strict=True))
        changed = next((path for path, content in known.items() if _sha256(folder / path) != content), None)
        if changed is not None:
            layout.receipt(task).unlink(missing_ok=True)
            yield f"image {shorten(changed, 200)} was changed after it was read: shard {task} will be rebuilt"


def _facts(folder: Path, paths: list[str]) -> Iterator[ImageFact]:
    for path in paths:
        try:
            found = os.stat(folder / path)
        except OSError:
            yield ImageFact(path, -1, -1)
        else:
            yield ImageFact(path, found.st_size, found.st_mtime_ns)


def _sha256(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None
