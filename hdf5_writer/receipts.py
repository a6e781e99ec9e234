"""Read the receipts of finished tasks, and compute `data_params.json` and `rejects.jsonl` from them."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.plan import Plan
from hdf5_writer.publish import DamagedError, unseal
from hdf5_writer.report.duplicates import find_duplicates
from hdf5_writer.report.task_statistics import fingerprints_every, read_fingerprints
from hdf5_writer.shard import LENGTH_BIN
from preprocess.record_keys import UnusedKeys

Receipt = dict[str, Any]
_SHARD_COUNTS = ("rows", "samples", "images", "contents", "stored_bytes")


def read_receipt(layout: OutputLayout, plan: Plan, task: int) -> Receipt:
    """Read the receipt of a task of this plan.

    Raises:
        FileNotFoundError: the task is not done.
        DamagedError: the receipt is damaged or belongs to a different plan.
    """
    receipt = unseal(layout.receipt(task))
    if receipt["plan"] != plan.digest or receipt["task"] != task:
        raise DamagedError(f"{layout.receipt(task)}: belongs to a different plan")
    return receipt


def unfinished_tasks(layout: OutputLayout, plan: Plan, among: range | None = None) -> list[int]:
    """Return the tasks (all, or those in `among`) that are not done, and remove their invalid receipts.

    A task is done if its receipt is valid and its shard exists with the size in the receipt.
    """
    unfinished = []
    for task in range(plan.tasks) if among is None else among:
        try:
            size = read_receipt(layout, plan, task)["shard"]["bytes"]
            if layout.shard(task, plan.tasks).stat().st_size == size:
                continue
        except (FileNotFoundError, DamagedError):
            pass
        layout.receipt(task).unlink(missing_ok=True)
        unfinished.append(task)
    return unfinished


def all_receipts(layout: OutputLayout, plan: Plan) -> Iterator[Receipt]:
    """Yield the receipts of all tasks in order, with one in memory at a time."""
    return (read_receipt(layout, plan, task) for task in range(plan.tasks))


def rejects_digest(plan: Plan, receipts: Iterator[Receipt]) -> tuple[int, str]:
    """Return the size in bytes and the hex sha256 of `rejects.jsonl`."""
    size, digest = 0, hashlib.sha256()
    for line in reject_lines(plan, receipts):
        size += len(line)
        digest.update(line)
    return size, digest.hexdigest()


def data_params(plan: Plan, receipts: Iterator[Receipt], rejects: tuple[int, str]) -> dict[str, Any]:
    """Compute the content of `data_params.json`: parameters for readers, and counts of records, rows and tokens.

    `rejects` is the size in bytes and the sha256 of `rejects.jsonl`. All positions (rows times max_sequence_length)
    are `total` (attended: text and image) plus `padding`.
    """
    config, tokenizer = plan.config, plan.tokenizer
    shards, sums, reasons, lengths = [], Counter[str](), Counter[str](), Counter[int]()
    unused, fingerprints, most_images = UnusedKeys(), [], 0
    for receipt in receipts:
        counts = dict(receipt["counts"])
        shards.append({**receipt["shard"], **{name: counts[name] for name in _SHARD_COUNTS}})
        most_images = max(most_images, counts.pop("most_images"))
        lengths.update(dict(counts.pop("lengths")))
        sums.update(counts)
        sums["read"] += receipt["read"]
        reasons.update(reject["reason"] for reject in receipt["rejects"])
        unused.update(receipt["unused_keys"])
        fingerprints.append(read_fingerprints(receipt["report"]))
    slots = sums["images"] * config.dataset.num_patches
    total = sums["text_tokens"] + slots
    positions = sums["rows"] * config.processor.max_sequence_length
    return {
        "schema_version": plan.schema_version,
        "package_version": plan.package_version,
        "packing": config.processor.packing,
        "rows": sums["rows"],
        "samples": sums["samples"],
        "fill": round(total / positions, 6) if positions else 0.0,
        "most_images_per_row": most_images,
        "store_images": config.dataset.store_images,
        "image_aspect_ratio": config.dataset.image_aspect_ratio,
        "stored_bytes": sums["stored_bytes"],
        "image_start_idx": None if config.has_free_rows else tokenizer.image_start_idx,
        "num_patches": config.dataset.num_patches,
        "image_size": config.dataset.image_size,
        "patch_size": config.dataset.patch_size,
        "max_sequence_length": config.processor.max_sequence_length,
        "pad_id": tokenizer.pad_id,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": {"name": config.processor.tokenizer_type, "digest": tokenizer.digest},
        "config": config.stored_keys(),
        "plan_digest": plan.digest,
        "limit": plan.limit,
        "inputs": [
            {
                "path": file.path,
                "bytes": file.bytes,
                "crc32": file.crc32,
                "records": file.records,
                "record_format": file.record_format,
            }
            for file in plan.inputs
        ],
        "counts": {
            "read": sums["read"],
            "written": sums["samples"],
            "rejected": reasons.total(),
            "rejected_by_reason": dict(sorted(reasons.items())),
            "with_image": sums["samples_with_image"],
            "text_only": sums["samples"] - sums["samples_with_image"],
            "images": sums["images"],
            "images_cut": sums["images_cut"],
            "truncated": sums["truncated"],
            "images_moved": sums["images_moved"],
            "text_only_cut": sums["text_only_cut"],
            "first_turns_skipped": sums["first_turns_skipped"],
            "dropped_rounds": sums["dropped_rounds"],
            "duplicates": find_duplicates(fingerprints, fingerprints_every(plan.records)).surplus,
            "unused_keys": unused.ranked(),
        },
        "tokens": {
            "total": total,
            "text": sums["text_tokens"],
            "supervised": sums["supervised"],
            "image": slots,
            "padding": positions - total,
        },
        "lengths": {
            "bin": LENGTH_BIN,
            "meaning": "samples by attended positions: element i counts samples of i*bin to (i+1)*bin-1",
            "samples": [lengths[i] for i in range(max(lengths, default=-1) + 1)],
        },
        "rejects": {"bytes": rejects[0], "sha256": rejects[1]},
        "shards": shards,
    }


def reject_lines(plan: Plan, receipts: Iterator[Receipt]) -> Iterator[bytes]:
    """Yield the lines of `rejects.jsonl`, sorted by file and line; memory grows by about 32 bytes per reject.

    Raises:
        OSError: the folder for temporary files, which the error names, is full.
    """
    numbers = {file.path: number for number, file in enumerate(plan.inputs)}
    files, lines, ends = array("q"), array("q"), array("q", [0])
    with tempfile.TemporaryFile() as spool:
        try:
            for receipt in receipts:
                for reject in receipt["rejects"]:
                    data = orjson.dumps(reject, option=orjson.OPT_APPEND_NEWLINE)
                    spool.write(data)
                    files.append(numbers[reject["file"]])
                    lines.append(reject["line"])
                    ends.append(ends[-1] + len(data))
            spool.flush()
        except OSError as error:
            if error.filename is None:
                error.filename = tempfile.gettempdir()
            raise
        for i in np.lexsort((lines, files)).tolist():
            spool.seek(ends[i])
            yield spool.read(ends[i + 1] - ends[i])
