"""Fill of rows with and without packing, for generated records of phase 2, as a table and a plot.

python -m benchmarks.packed_fill --svg docs/images/packing.svg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks.generate import phase_2_records
from benchmarks.measure import ROOT
from hdf5_writer.planning.pack import best_fit_decreasing
from hdf5_writer.report.fill import Fill, expected_fill
from preprocess.config import DatasetConfig
from preprocess.conversation import ConversationReader
from preprocess.templates import renderer_for
from preprocess.tokenize.batches import BatchEncoder
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import load_tokenizer

LENGTHS = (2048, 4096, 8192)
SLOTS, WINDOW = 576, 10_000
_AT_A_TIME = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "configs" / "quickstart" / "tokenizer")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the plot there")
    options = parser.parse_args()
    attended, images = lengths_of(options.tokenizer, options.records)
    print(f"{len(attended):,} samples of {attended.mean():.0f} positions on average, windows of {WINDOW:,}\n")
    print(
        "| positions per row | fill, one sample per row | fill, packed | samples per packed row "
        "| rows relative to one window |"
    )
    print("|---:|---:|---:|---:|---:|")
    found = []
    for length in LENGTHS:
        windows = [slice(start, start + WINDOW) for start in range(0, len(attended), WINDOW)]
        fills = [expected_fill(attended[part], images[part], length, SLOTS, None) for part in windows]
        rows = sum(len(attended[part]) / fill.samples_per_row for part, fill in zip(windows, fills, strict=True))
        cut = np.minimum(attended, length)
        at_once = max(best_fit_decreasing(cut.tolist(), images.tolist(), length, None)) + 1
        unpacked = float(np.mean([fill.unpacked for fill in fills]))
        found.append(Fill(length, unpacked, float(cut.sum()) / (rows * length), len(attended) / rows))
        shown = f"| {length:,} | {unpacked:.1%} | {found[-1].packed:.1%} | {found[-1].samples_per_row:.2f} |"
        print(f"{shown} {rows / at_once:.4f} |")
    if options.svg:
        draw(found, options.svg)


def lengths_of(tokenizer: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions and images of each sample of generated records, with the template vicuna_v1."""
    loaded = load_tokenizer(str(tokenizer))
    dataset = DatasetConfig(system_prompt_style="vicuna_v1")
    renderer, encoder = renderer_for(dataset, loaded), BatchEncoder(Encoder(loaded))
    reader = ConversationReader(dataset, renderer.traits)
    rendered = [renderer.render(reader.read(record, "llava")) for record in phase_2_records(loaded, count)]
    attended, images = [], []
    for start in range(0, count, _AT_A_TIME):
        batch, failed = encoder.encode(rendered[start : start + _AT_A_TIME])
        assert not failed
        images.append(np.diff(batch.image_offsets))
        attended.append(np.diff(batch.offsets) - 1 + images[-1] * SLOTS)
    return np.concatenate(attended), np.concatenate(images)


def draw(fills: list[Fill], file: Path) -> None:
    """Plot bars of both fills for each length."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(fills))
    for shift, name, shares, colour in (
        (-0.2, "one sample per row", [fill.unpacked for fill in fills], "#8a93a1"),
        (0.2, "packed", [fill.packed for fill in fills], "#5585e0"),
    ):
        bars = axes.barh(places + shift, [100 * share for share in shares], 0.38, label=name, color=colour)
        axes.bar_label(bars, labels=[f"{share:.0%}" for share in shares], padding=3)
    axes.set_yticks(places, [f"{fill.max_sequence_length:,}" for fill in fills])
    axes.set_ylabel("positions per row")
    axes.set_xlabel("attended positions, %")
    axes.set_xlim(0, 112)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=2)
    FigureCanvasSVG(figure).print_svg(file)


if __name__ == "__main__":
    main()
