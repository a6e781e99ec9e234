"""Loading the same records packed and with one sample per row, without images; samples are counted, not rows.

Rows have 2,048 positions; half of the records have an image of 576 slots. In the rows of one sample, text-only ones
have as many masked slots. All contestants must give the same checksum over their samples.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.loading import Note, epochs, store
from benchmarks.loading_data import write_dataset
from benchmarks.loading_epochs import OURS
from benchmarks.loading_peers import BATCH, PEERS
from benchmarks.measure import Contestant, Measured, Section, in_turn, size

PEER = "LitData"
PACKED, SINGLE = "ours, packed", "ours, one sample per row"
_SAMPLES = 400 * BATCH


def run(folder: Path, repeats: int, note: Note) -> list[Section]:
    """The table.

    Raises:
        RuntimeError: a contestant failed, or gave other samples than the others.
    """
    note("making the rows to load, packed and not")
    packed, single = write_both(folder / "packing", _SAMPLES)
    store([(PEER, single)], note)
    contestants = [
        Contestant(PACKED, [*epochs(OURS, packed), "--samples"], _SAMPLES),
        Contestant(SINGLE, [*epochs(OURS, single), "--samples"], _SAMPLES),
        Contestant(
            f"{PEER}, one sample per row", [*epochs(PEER, single), "--samples"], _SAMPLES, PEERS[PEER].leaves_out
        ),
    ]
    measured = checked(in_turn(contestants, repeats, note), _SAMPLES)
    stored = (packed / OURS, single / OURS, single / PEERS[PEER].folder)
    for result, place in zip(measured, stored, strict=True):
        result.out_bytes = size(place)
    ours, *others = measured
    ratios = {f"loading packed / {other.name}": ours.rate / other.rate for other in others}
    title = f"Loading packed rows, without images: {_SAMPLES:,} samples, shuffled, one process"
    return [Section(title, measured, PACKED, ratios, "sample")]


def write_both(folder: Path, samples: int, **options: int) -> tuple[Path, Path]:
    """The same records packed, and one a row; `options` of `write_dataset`."""
    return (
        write_dataset(folder / "packed", samples, with_images=False, packing="best_fit", **options),
        write_dataset(folder / "single", samples, with_images=False, **options),
    )


def checked(measured: list[Measured], samples: int) -> list[Measured]:
    """The same, when all gave the same samples, each once.

    Raises:
        RuntimeError: one did not.
    """
    for result in measured:
        found = result.said["checked_samples"], result.said["checksum"]
        if found != (samples, measured[0].said["checksum"]):
            raise RuntimeError(f"{result.name} gave {found}, expected {samples} and {measured[0].said['checksum']}")
    return measured
