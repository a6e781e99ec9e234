"""Accepted images that take `check_images: decode` the most time or memory.

Three of them take about a minute at full size, which they have with `--rounds 50` or more. In CI they have a tenth of
it (chunks) or of each side (runs and decimal numbers): for these three, CI alone does not show the stated bound.
"""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, features

pytestmark = pytest.mark.faults

# Stated in docs/config.md, for one image.
MEMORY_BOUND = 5 << 29
SECONDS_BOUND = 60
_SIDE = 9459  # squared, just within Pillow's limit of pixels


def saved(mode: str, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (_SIDE, _SIDE)).save(buffer, format_, **options)
    return buffer.getvalue()


def many_scans(_: int) -> bytes:
    """A hundred passes over all pixels in a few bytes each."""
    data = saved("RGB", "JPEG", progressive=True, subsampling=0)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (100 - data.count(b"\xff\xda")) + b"\xff\xd9"


def many_chunks(part: int) -> bytes:
    """A PNG of few pixels with millions of ignored chunks, of the maximum file size."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG")
    data, chunk = buffer.getvalue(), struct.pack(">I", 0) + b"prVt" + struct.pack(">I", zlib.crc32(b"prVt"))
    at = data.index(b"IDAT") - 4
    return data[:at] + chunk * ((100 << 20) // len(chunk) // part) + data[at:]


def many_runs(part: int) -> bytes:
    """A BMP whose every pixel is a run of its own, which Pillow unpacks in Python."""
    side = 5500 // part
    rows = (bytes([1, 1]) * side + b"\0\0") * side + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + header + bytes(1024) + rows


def plain_numbers(part: int) -> bytes:
    """A PPM written in decimal numbers, which Pillow reads in Python."""
    side = 4300 // part
    return b"P3 %d %d 255\n" % (side, side) + b"1 2 3 " * (side * side)


_IMAGES: list[tuple[str, Callable[[int], bytes]]] = [
    ("png", lambda _: saved("RGBA", "PNG")),
    ("jpeg-scans", many_scans),
    ("png-chunks", many_chunks),
    ("bmp-runs", many_runs),
    ("ppm-numbers", plain_numbers),
]
if features.check("jpg_2000"):
    _IMAGES.append(("jp2", lambda _: saved("RGBA", "JPEG2000")))
if features.check("webp"):
    _IMAGES.append(("webp", lambda _: saved("RGBA", "WEBP", lossless=True, quality=0)))

_DECODE = """
import resource, sys
from preprocess.images import decode
decode(sys.argv[1], "it")
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BOUND, MEMORY_BOUND))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_BOUND, SECONDS_BOUND))


@pytest.mark.parametrize(("name", "make"), _IMAGES, ids=[name for name, _ in _IMAGES])
def test_image_bombs_stay_within_the_memory_and_time_limits(
    tmp_path: Path, rounds: int, name: str, make: Callable[[int], bytes]
) -> None:
    file = tmp_path / name
    file.write_bytes(make(1 if rounds >= 50 else 10))
    done = subprocess.run(
        [sys.executable, "-c", _DECODE, str(file)], preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    print(name, f"{file.stat().st_size:,} bytes:", "{} s, {} MB".format(*done.stdout.split()))
