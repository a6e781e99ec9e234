"""A finished output folder with every kind of output file, and damage to one file at a time."""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator
from pathlib import Path

from conftest import ConfigMaker, create, turn_pair, write_jsonl

from hdf5_writer import inspect_hdf5
from hdf5_writer.layout import OutputLayout
from hdf5_writer.report.page import write_report

# The content of a lock is only for people; no code reads it.
_LOCKS = {".work/lock", ".work/planning.lock"}
_KINDS = {
    *("data_params.json", "rejects.jsonl", "report.html", "rows.html", "examples-0-of-0.h5"),
    *(".work/plan.json", ".work/offsets.i64", ".work/lines.i64", ".work/receipts/0.json"),
}


FORMS: dict[str, dict[str, str]] = {
    "path": {},
    "encoded": {"dataset__store_images": "encoded"},
    # As large as the rest of the shards together, so that random places hit both.
    "pixels": {"dataset__store_images": "pixels", "dataset__image_aspect_ratio": "square"},
}


def finished_folder(make_config: ConfigMaker, place: Path, form: str = "path") -> Path:
    """11 rows in three shards, at least one with an image; two rejects; blank lines; both pages.

    `form` is `dataset.store_images`.
    """
    records = [{"id": i, "conversations": turn_pair(f"Question {i}?", f"Answer {i}.")} for i in range(10)]
    picture = {"image": "shapes/0001.png", "conversations": turn_pair("<image>\nWhat?", "A shape.")}
    path = write_jsonl(place / "in" / "a.jsonl", [*records, picture, {}])
    with path.open("a") as file:
        file.write('\n\n{"conversations": []}\n')
    create(make_config(setup__samples_per_shard=5, **FORMS[form]))
    out = place / "out"
    write_report(OutputLayout(out), "create_hdf5_dataset")
    assert inspect_hdf5.main([str(out)]) == 0
    return out


def output_files(out: Path) -> list[Path]:
    """All files of a folder except locks; an unknown kind of file is an error."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    names = {path.relative_to(out).as_posix() for path in files} - _LOCKS
    assert {re.sub(r"\d{5}", "0", name) for name in names} == _KINDS
    return [path for path in files if path.relative_to(out).as_posix() in names]


@contextlib.contextmanager
def damaged(path: Path, choose: random.Random, *, cut: bool) -> Iterator[int]:
    """Flip a random bit, or truncate at a random byte; yields the offset and restores the file afterwards."""
    data = path.read_bytes()
    at = choose.randrange(len(data) if cut else 8 * len(data))
    broken = bytearray(data[:at] if cut else data)
    if not cut:
        broken[at // 8] ^= 1 << at % 8
    path.write_bytes(broken)
    try:
        yield at
    finally:
        path.write_bytes(data)
