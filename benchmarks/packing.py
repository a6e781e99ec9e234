"""Load the same records packed and with one sample per row, without images; counts samples, not rows.

Rows have 2,048 positions; half of the records have an image of 576 slots. With one sample per row, text-only rows have
576 masked slots. All contestants must have the same checksum over their samples.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.loading import Note, epochs, store
from benchmarks.loading_data import write_dataset
from benchmarks.loading_epochs import OURS
from benchmarks.loading_peers import BATCH, PEERS
from benchmarks.measure import Contestant, Measured, Section, run_alternating, size

PEER = "LitData"
PACKED, SINGLE = "ours, packed", "ours, one sample per row"
_SAMPLES = 400 * BATCH


def run(folder: Path, repeats: int, note: Note) -> list[Section]:
    """Make the table.

    Raises:
        RuntimeError: a contestant failed, or returned other samples than the others.
    """
    note("writing the rows to load, packed and not")
    packed, single = write_both(folder / "packing", _SAMPLES)
    store([(PEER, single)], note)
    contestants = [
        Contestant(PACKED, [*epochs(OURS, packed), "--samples"], _SAMPLES),
        Contestant(SINGLE, [*epochs(OURS, single), "--samples"], _SAMPLES),
        Contestant(
            f"{PEER}, one sample per row", [*epochs(PEER, single), "--samples"], _SAMPLES, PEERS[PEER].not_included
        ),
    ]
    measured = checked(run_alternating(contestants, repeats, note), _SAMPLES)
    stored = (packed / OURS, single / OURS, single / PEERS[PEER].folder)
    for result, place in zip(measured, stored, strict=True):
        result.out_bytes = size(place)
    ours, *others = measured
    ratios = {f"loading packed / {other.name}": ours.rate / other.rate for other in others}
    title = f"Loading packed rows, without images: {_SAMPLES:,} samples, shuffled, one process"
    return [Section(title, measured, PACKED, ratios, "sample")]


def write_both(folder: Path, samples: int, **options: int) -> tuple[Path, Path]:
    """Write the same records packed and one per row; `options` are those of `write_dataset`."""
    return (
        write_dataset(folder / "packed", samples, with_images=False, packing="best_fit", **options),
        write_dataset(folder / "single", samples, with_images=False, **options),
    )


def checked(measured: list[Measured], samples: int) -> list[Measured]:
    """Check that all returned the same samples, each once; return `measured`.

    Raises:
        RuntimeError: one did not.
    """
    for result in measured:
        found = result.printed["checked_samples"], result.printed["checksum"]
        if found != (samples, measured[0].printed["checksum"]):
            raise RuntimeError(
                f"{result.name} returned {found}, expected {samples} and {measured[0].printed['checksum']}"
            )
    return measured
