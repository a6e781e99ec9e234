"""Write `report.html` from the files of a finished dataset.

Memory does not grow with the number of rows: receipts and tables are read one shard at a time.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import orjson

from hdf5_writer.layout import OutputLayout
from hdf5_writer.pages import render_page
from hdf5_writer.planning.plan import Plan, read_plan
from hdf5_writer.publish import publish, unseal
from hdf5_writer.receipts import all_receipts
from hdf5_writer.report.duplicates import Duplicates, find_duplicates
from hdf5_writer.report.findings import find, unreadable_images
from hdf5_writer.report.image_sample import ImageTally, inspect_images
from hdf5_writer.report.inputs import InputTally
from hdf5_writer.report.lengths import (
    Lengths,
    OtherLength,
    empty_lengths,
    other_lengths,
    quantiles,
    recommended_length,
)
from hdf5_writer.report.plots import Plot, histogram, lengths_plot, measurements, scatter
from hdf5_writer.report.row_tally import RowTally
from hdf5_writer.report.task_statistics import read_fingerprints
from hdf5_writer.report.throughput import Throughput
from hdf5_writer.tables import images_of_samples, read_tables
from hdf5_writer.viewer.chat import side_of
from hdf5_writer.viewer.dataset import InspectedDataset
from hdf5_writer.viewer.page import rows_values

_EXAMPLES = 3
_FIRST_ROWS = 5
_MAX_USED = 5
_MAX_WORKERS = 16
_SHARES = (0.5, 0.9, 0.99, 0.999, 1.0)


@dataclass(frozen=True)
class _Tallies:
    """Sums over all shards and receipts; element i of a histogram counts the value i."""

    lengths: Lengths
    rows: RowTally
    supervised: npt.NDArray[np.int64]
    rounds: npt.NDArray[np.int64]
    images: ImageTally
    inputs: InputTally
    duplicates: Duplicates
    throughput: Throughput


def write_report(
    layout: OutputLayout, command: str | None, warn: Callable[[str], None] = lambda sentence: None
) -> Path:
    """Write the page of a finished dataset.

    Args:
        layout: the output folder.
        command: the command of the run, to show in the report.
        warn: called with warnings about missing or unreadable image files.

    Returns:
        the path of the page.

    Raises:
        OSError: a file cannot be read, or the page cannot be written.
        publish.DamagedError: a file is damaged.
    """
    params, plan = unseal(layout.data_params), read_plan(layout)
    tallies = _tally(layout, plan)
    dataset = InspectedDataset(layout.root)
    side = side_of(dataset)
    rows = [dataset.read(number) for number in range(min(len(dataset), _FIRST_ROWS))]
    image_dir = plan.local_config().dataset.image_dir
    others = other_lengths(tallies.lengths)
    sample = inspect_images(image_dir, tallies.images.sample())
    page = render_page(
        "report.html.j2",
        script="rows.js" if rows else None,
        **rows_values(side, rows),
        params=params,
        findings=find(params, tallies.duplicates, sample, _packing_gain(params, others)),
        gain=_packing_gain(params, others),
        command=command,
        name=layout.root.resolve().name,
        output_dir=os.path.realpath(layout.root),
        inspect_command=shlex.join(["inspect_hdf5", os.path.realpath(layout.root)]),
        rejects=_reject_examples(layout, params["counts"]["rejected_by_reason"]),
        config=[
            (f"{section}.{key}", value)
            for section, keys in plan.config.as_json().items()
            for key, value in keys.items()
        ],
        lengths=others,
        recommended=recommended_length(tallies.lengths),
        inputs=tallies.inputs.files(),
        summaries=_summaries(tallies),
        row_summaries=tallies.rows.summaries(_SHARES),
        shares=_SHARES,
        plots=_plots(tallies, others) if params["counts"]["written"] else {},
        images=tallies.images,
        most_used=tallies.images.most_used(_MAX_USED),
        image_dir=image_dir,
        sample=sample,
        image_plots=_image_plots(sample.sizes),
        duplicates=tallies.duplicates,
        duplicate_places=_places(layout, plan, tallies.duplicates),
        throughput=tallies.throughput,
        workers=tallies.throughput.busiest(_MAX_WORKERS),
    )
    publish(layout.report, [page])
    for finding in unreadable_images(sample):
        warn(finding.sentence)
    return layout.report


def _tally(layout: OutputLayout, plan: Plan) -> _Tallies:
    config, images, throughput = plan.config, ImageTally(), Throughput()
    inputs = InputTally([file.path for file in plan.inputs])
    length = config.processor.max_sequence_length
    start = None if config.has_free_rows else plan.tokenizer.image_start_idx
    lengths, rows = empty_lengths(length, config.dataset.num_patches, start), RowTally()
    supervised, rounds = Counter[int](), Counter[int]()
    fingerprints = []
    every = 1
    for task, receipt in enumerate(all_receipts(layout, plan)):
        statistics = receipt["report"]
        throughput.add(receipt)
        supervised.update(dict(statistics["supervised"]))
        rounds.update(dict(statistics["rounds"]))
        fingerprints.append(read_fingerprints(statistics))
        every = statistics["fingerprints_every"]
        with h5py.File(layout.shard(task, plan.tasks), "r") as file:
            tables = read_tables(file)
        text_tokens = lengths.add(tables["samples/length"], images_of_samples(tables))
        rows.add(tables)
        inputs.add(tables["samples/source_file"], text_tokens, receipt["rejects"])
        images.add(tables["images/path"].tolist())
    return _Tallies(
        lengths=lengths,
        rows=rows,
        supervised=_histogram(supervised),
        rounds=_histogram(rounds),
        images=images,
        inputs=inputs,
        duplicates=find_duplicates(fingerprints, every),
        throughput=throughput,
    )


def _histogram(counts: Counter[int]) -> npt.NDArray[np.int64]:
    rows = np.zeros(max(counts, default=0) + 1, dtype=np.int64)
    for value, number in counts.items():
        rows[value] = number
    return rows


def _reject_examples(layout: OutputLayout, counts: dict[str, int]) -> list[tuple[str, int, list[dict[str, Any]]]]:
    """Return (reason, number of records, first examples), the most frequent reason first."""
    examples: dict[str, list[dict[str, Any]]] = {reason: [] for reason in counts}
    wanting = {reason: min(count, _EXAMPLES) for reason, count in counts.items()}
    with layout.rejects.open("rb") as lines:
        for line in lines:
            if not wanting:
                break
            reject = orjson.loads(line)
            found = examples[reject["reason"]]
            if len(found) < _EXAMPLES:
                found.append(reject)
                if len(found) == wanting[reject["reason"]]:
                    del wanting[reject["reason"]]
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [(reason, count, examples[reason]) for reason, count in ranked]


def _summaries(tallies: _Tallies) -> list[tuple[str, list[int]]]:
    """Return (name of the quantity, its quantiles at `_SHARES`)."""
    return [
        ("used positions", quantiles(tallies.lengths.used, _SHARES)),
        ("text tokens", quantiles(tallies.lengths.text_tokens, _SHARES)),
        ("supervised tokens", quantiles(tallies.supervised, _SHARES)),
        ("rounds", quantiles(tallies.rounds, _SHARES)),
    ]


def _packing_gain(params: dict[str, Any], others: list[OtherLength]) -> OtherLength | None:
    """Return the estimate for packing at the current length; None if rows are packed already."""
    if params["packing"] != "none" or not params["rows"]:
        return None
    return next((other for other in others if other.is_current and other.fits), None)


def _plots(tallies: _Tallies, others: list[OtherLength]) -> dict[str, Plot]:
    lengths, in_rows = tallies.lengths, tallies.rows
    other = [length for length in others if length.fits]
    rows, most = int(lengths.used.sum()), lengths.max_sequence_length
    return {
        "used": histogram("Used positions", lengths.used, "used positions", mark=most),
        "text": histogram("Text tokens", lengths.text_tokens, "text tokens"),
        "supervised": histogram("Supervised tokens", tallies.supervised, "supervised tokens"),
        "rounds": histogram("Rounds", tallies.rounds, "rounds"),
        "row_used": histogram("Used positions of rows", in_rows.used, "used positions per row", mark=most),
        "row_samples": histogram("Samples per row", in_rows.samples, "samples per row"),
        "row_images": histogram("Images per row", in_rows.images, "images per row"),
        "lengths": lengths_plot(
            "Truncated samples and padding by maximum sequence length",
            [length.max_sequence_length for length in other],
            [length.rows_cut / rows for length in other],
            [length.padding_share for length in other],
        ),
    }


def _image_plots(sizes: list[tuple[int, int]]) -> list[tuple[str, Plot]]:
    """Return (caption, plot) of each image plot; empty if no size is known."""
    if not sizes:
        return []
    aspects = [width / height for width, height in sizes]
    return [
        ("Height and width of sampled images, in pixels", scatter("Image sizes", sizes, "width in pixels")),
        ("Sampled images by aspect ratio", measurements("Aspect ratios", aspects, "width / height")),
    ]


def _places(layout: OutputLayout, plan: Plan, duplicates: Duplicates) -> list[list[str]]:
    """Return FILE:LINE of the first samples of each of the largest groups."""
    return [[_place(layout, plan, task, sample) for task, sample in group.places] for group in duplicates.largest]


def _place(layout: OutputLayout, plan: Plan, task: int, sample: int) -> str:
    with h5py.File(layout.shard(task, plan.tasks), "r") as file:
        return f"{plan.inputs[file['samples/source_file'][sample]].path}:{file['samples/source_line'][sample]}"
