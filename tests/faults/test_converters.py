"""Converting Parquet with embedded images: kills, and memory with a large row group."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

pytestmark = pytest.mark.faults

KILLS = 20
SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("image", pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
        ("caption", pyarrow.string()),
    ]
)


def picture(side: int) -> bytes:
    buffer = BytesIO()
    Image.effect_noise((side, side), 80).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write(path: Path, rows: int, data: bytes, row_group: int) -> None:
    """Make distinct images; decoders ignore bytes after the end of a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with parquet.ParquetWriter(path, SCHEMA, use_dictionary=False) as writer:
        for start in range(0, rows, row_group):
            numbers = range(start, min(start + row_group, rows))
            image = [{"bytes": data + str(n).encode(), "path": f"{n}.jpg"} for n in numbers]
            columns = {"id": [str(n) for n in numbers], "image": image, "caption": ["noise"] * len(numbers)}
            writer.write_table(pyarrow.table(columns, schema=SCHEMA), row_group_size=row_group)


def command(place: Path, data: Path) -> list[str]:
    arguments = ["--input", data, "--output_jsonl_dir", place / "jsonl", "--output_image_dir", place / "images"]
    return [sys.executable, "-m", "preprocess.preprocess_dataset", "parquet", *map(str, arguments)]


def contents(place: Path) -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_output_is_identical_after_twenty_kills(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in range(4):
        write(data / f"{name}.parquet", 120, picture(96), 50)
    began = time.monotonic()
    subprocess.run(command(tmp_path / "whole", data), check=True, stdout=subprocess.DEVNULL)
    takes = time.monotonic() - began
    wanted = contents(tmp_path / "whole")
    choose, kills = random.Random(0), 0
    for attempt in range(20 * KILLS):
        if kills >= KILLS:
            break
        place = tmp_path / str(attempt)
        for _ in range(3):  # the later kills hit a run that resumes
            process = subprocess.Popen(command(place, data), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(choose.uniform(0, takes))
            process.kill()
            _, stderr = process.communicate()
            kills += process.returncode < 0
            assert stderr == b""
            for name, found in contents(place).items():
                assert name.endswith((".partial", ".receipt")) or found == wanted[name], name
        subprocess.run(command(place, data), check=True, stdout=subprocess.DEVNULL)
        assert contents(place) == wanted
    assert kills >= KILLS


# ru_maxrss of a child starts at that of its parent; VmHWM starts when a program is executed.
_PEAK = """
import sys
from preprocess.preprocess_dataset import main
code = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(int(peak.split()[1]) << 10, file=sys.stderr)
sys.exit(code)
"""


def peak(arguments: list[str]) -> int:
    """Peak memory of `preprocess_dataset` with these arguments, in bytes."""
    command = [sys.executable, "-c", _PEAK, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stderr)


def test_memory_depends_on_pages_and_not_on_the_row_group(tmp_path: Path) -> None:
    """pyarrow writes pages of 1,024 rows, here 11 MB; the large row group has twelve of them."""
    data = picture(112)
    size = 1024 * len(data)
    write(tmp_path / "small/a.parquet", 1024, data, 1024)
    write(tmp_path / "large/a.parquet", 12 * 1024, data, 12 * 1024)
    small, large = (peak(command(tmp_path / name, tmp_path / name)[3:]) for name in ("small", "large"))
    assert large - small < 3 * size, (small, large, size)
