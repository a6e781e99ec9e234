"""Load rows of 2,048 positions, without images and with photos, compared with four other loaders and Pillow alone.

All read the same rows, written once by our command and stored for each loader as its documentation recommends
(`loading_peers.py`), shuffled, in batches of 16. Each runs in a separate process, alternating, with the same procedure
(`loading_epochs.py`): one epoch to warm up, in which all rows are compared with those that h5py reads, then whole
epochs for at least one second. The files are in the page cache, so this compares decoding, not disks.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.loading_data import STORED, expected, write_dataset
from benchmarks.loading_epochs import LIMIT, OURS
from benchmarks.loading_peers import BATCH, PEERS, Peer
from benchmarks.measure import ROOT, Contestant, Measured, Section, run_alternating, size
from benchmarks.pixel_peers import PIXEL_PEERS

Note = Callable[[str], None]
_ROWS, _PHOTOS = 400 * BATCH, 4 * BATCH
_QUICK_ROWS, _QUICK_PHOTOS = 128 * BATCH, 2 * BATCH
_QUICK_PEERS = ("Hugging Face datasets",)


def run(folder: Path, repeats: int, quick: bool, note: Note) -> list[Section]:
    """Make all tables of loading; `quick` compares only with the fastest peer and with Pillow.

    Raises:
        RuntimeError: a loader failed, or returned rows that differ from the stored ones.
    """
    text, images = folder / "text", folder / "images"
    rows, photos = (_QUICK_ROWS, _QUICK_PHOTOS) if quick else (_ROWS, _PHOTOS)
    note("writing the rows to load")
    write_dataset(text, rows, with_images=False)
    write_dataset(images, photos, with_images=True)
    peers = _QUICK_PEERS if quick else tuple(PEERS)
    store([(name, data) for data in ((text,) if quick else (text, images)) for name in peers], note)
    sections = [text_section(text, rows, peers, () if quick else (1, 2), repeats, note)]
    for pixels in ("square",) if quick else ("square", "pad"):
        sections.append(image_section(images, photos, pixels, (1,) if quick else (1, 2), repeats, note))
    if not quick:
        sections.append(image_peers_section(images, photos, note))
        store([(name, images) for name in PIXEL_PEERS], note)
    sections.append(stored_section(images, photos, () if quick else (PEERS, PIXEL_PEERS), repeats, note))
    return sections


def store(wanted: Sequence[tuple[str, Path]], note: Note) -> None:
    """Store the rows of folders in the formats of peers, two at a time."""

    def write(name: str, folder: Path) -> None:
        note(f"storing {folder.name} for {name}")
        command = [sys.executable, *epochs(name, folder), "--write"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} could not store its rows:\n{(done.stdout + done.stderr)[-2000:]}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, *zip(*wanted, strict=True)))


def text_section(
    folder: Path, rows: int, peers: Sequence[str], workers: Sequence[int], repeats: int, note: Note
) -> Section:
    """Compare loading without images."""
    ours = "ours, one process"
    contestants = [Contestant(ours, epochs(OURS, folder), rows)]
    contestants += [Contestant(name, epochs(name, folder), rows, PEERS[name].not_included) for name in peers]
    contestants += [
        Contestant(f"ours, {number} worker{'s' * (number > 1)}", epochs(OURS, folder, workers=number), rows)
        for number in workers
    ]
    measured = checked(run_alternating(contestants, repeats, note), expected(folder))
    for result, name in zip(measured, (OURS, *peers), strict=False):
        result.out_bytes = size(folder / PEERS[name].folder if name in PEERS else folder / OURS)
    best = max((result for result in measured if result.name in peers), key=lambda result: result.rate)
    title = f"Loading without images: {rows:,} rows, shuffled; one process unless stated"
    return Section(title, measured, ours, {f"loading without images / {best.name}": measured[0].rate / best.rate})


def image_section(
    folder: Path, photos: int, pixels: str, processes: Sequence[int], repeats: int, note: Note
) -> Section:
    """Compare loading photos of 640 x 480 with Pillow in the same number of processes."""
    contestants = []
    for number in processes:
        # With one process, we load in the main process; with two, in two workers.
        workers = 0 if number == 1 else number
        place = "one process" if number == 1 else f"{number} workers"
        contestants += [
            Contestant(f"ours, {place}", epochs(OURS, folder, workers=workers, pixels=pixels), photos),
            Contestant(
                f"Pillow alone, {'one process' if number == 1 else f'{number} processes'}",
                epochs(LIMIT, folder, workers=number, pixels=pixels),
                photos,
                "everything except decode, resize, crop and normalise",
            ),
        ]
    measured = checked(run_alternating(contestants, repeats, note), expected(folder))
    ratios = {
        f"loading `{pixels}` images / Pillow, {number} process{'es' * (number > 1)}": mine.rate / limit.rate
        for number, mine, limit in zip(processes, measured[::2], measured[1::2], strict=True)
    }
    return Section(f"Loading `{pixels}` images of 640 × 480", measured, contestants[0].name, ratios)


def image_peers_section(folder: Path, photos: int, note: Note) -> Section:
    """Compare the other loaders with photos, in one run: all spend most of the time in the same Pillow calls."""
    ours = "ours, one process"
    contestants = [Contestant(ours, epochs(OURS, folder, pixels="square"), photos)]
    contestants += [
        Contestant(
            name, epochs(name, folder, pixels="square"), photos, f"{peer.not_included}; pixels decoded by Pillow"
        )
        for name, peer in PEERS.items()
    ]
    measured = checked(run_alternating(contestants, 1, note), expected(folder))
    return Section("Loading `square` images: the other loaders, one process, one run", measured, ours, {})


def stored_section(folder: Path, photos: int, peers: Sequence[dict[str, Peer]], repeats: int, note: Note) -> Section:
    """Compare images stored in shards with images in a folder, Pillow, and `peers` that store JPEGs or pixels."""
    contestants = [
        Contestant(f"ours, {form}", epochs(OURS, folder, pixels="square", stored=form), photos) for form in STORED
    ]
    contestants += [
        Contestant("ours, path", epochs(OURS, folder, pixels="square"), photos),
        Contestant("Pillow alone", epochs(LIMIT, folder, pixels="square"), photos, "everything except the pixels"),
    ]
    contestants += [
        Contestant(name, epochs(name, folder, pixels="square"), photos, peer.not_included)
        for of_form in peers
        for name, peer in of_form.items()
    ]
    measured = checked(run_alternating(contestants, repeats, note), expected(folder))
    rates = {result.name: result.rate for result in measured}
    pixels, encoded, path = (rates[f"ours, {form}"] for form in ("pixels", "encoded", "path"))
    ratios = {"stored pixels / Pillow alone": pixels / rates["Pillow alone"], "encoded / path": encoded / path}
    for form, of_form in zip(("JPEGs", "pixels"), peers, strict=False):
        ratios[f"stored pixels / the best loader of {form}"] = pixels / max(rates[name] for name in of_form)
    return Section(
        "Loading images of 640 × 480 that are stored with the rows, one process", measured, "ours, pixels", ratios
    )


def epochs(
    name: str, folder: Path, *, workers: int = 0, pixels: str | None = None, stored: str | None = None
) -> list[str]:
    """Return the Python arguments that run one contestant."""
    command = ["-m", "benchmarks.loading_epochs", name, str(folder), "--workers", str(workers)]
    command += [] if pixels is None else ["--pixels", pixels]
    return command if stored is None else [*command, "--stored", stored]


def checked(measured: list[Measured], wanted: dict[str, object]) -> list[Measured]:
    """Check that all loaders returned the stored rows, each once, and the same pixels; return `measured`.

    Raises:
        RuntimeError: one did not.
    """
    loaders = [result for result in measured if "checksum" in result.printed]
    for result in loaders:
        for key in ("checked_rows", "checksum"):
            if result.printed[key] != wanted[key]:
                raise RuntimeError(f"{result.name} returned {key} {result.printed[key]}, expected {wanted[key]}")
        # Ours rounds to float16 once, as transformers does; float32 arithmetic can differ in the last bit.
        if not math.isclose(result.printed["pixels"], loaders[0].printed["pixels"], rel_tol=1e-3):
            raise RuntimeError(
                f"{result.name} returned different pixels: {result.printed['pixels']}, {loaders[0].printed['pixels']}"
            )
    return measured
