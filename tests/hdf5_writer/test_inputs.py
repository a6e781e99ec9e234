from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning import index as index_module
from hdf5_writer.planning.index import build_index
from hdf5_writer.planning.inputs import InputChangedError, RecordReader, find_inputs, unread_data
from preprocess.config import ConfigError


@pytest.fixture
def layout(tmp_path: Path) -> OutputLayout:
    found = OutputLayout(tmp_path / "out")
    found.work.mkdir(parents=True)
    return found


def index(folder: Path, layout: OutputLayout, limit: int | None = None) -> RecordReader:
    files, _ = find_inputs(folder, layout.root)
    counted, _ = build_index(folder, files, layout, limit)
    return RecordReader(folder, counted, layout)


def read_all(reader: RecordReader) -> list[tuple[int, int, bytes]]:
    count = int(reader._ends[-1])
    return [(line.file, line.number, line.data.strip()) for lines in reader.read(np.arange(count)) for line in lines]


LINES = st.lists(
    st.sampled_from([b"", b" ", b"\t \r", b'{"a": 1}', b" {}", b"x", b"\r", b"y\r", b"\x0c", b"\xff", b"\xef\xbb\xbf"]),
    max_size=12,
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(files=st.lists(st.tuples(LINES, st.booleans(), st.booleans()), min_size=1, max_size=3), block=st.integers(1, 9))
def test_every_non_blank_line_is_a_record(
    tmp_path: Path, files: list[tuple[list[bytes], bool, bool]], block: int
) -> None:
    folder, layout = tmp_path / "data", OutputLayout(tmp_path / "out")
    folder.mkdir(exist_ok=True)
    layout.work.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    expected = []
    for number, (lines, bom, newline) in enumerate(files):
        data = b"\n".join(lines) + b"\n" * newline
        (folder / f"{number}.jsonl").write_bytes(b"\xef\xbb\xbf" * bom + data)
        lines = (b"\xef\xbb\xbf" * bom + data).removeprefix(b"\xef\xbb\xbf").split(b"\n")
        expected += [(number, at, line.strip()) for at, line in enumerate(lines, 1) if line.strip(b" \t\r\n")]
    original, index_module._BLOCK = index_module._BLOCK, block
    try:
        if block >= 3:  # the byte order mark must be in the first block
            assert read_all(index(folder, layout)) == expected
    finally:
        index_module._BLOCK = original


def test_compressed_inputs_are_read_like_their_contents(tmp_path: Path, layout: OutputLayout) -> None:
    data = b'{"a": 1}\n\n{"b": "\xc3\xbc"}'
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(data)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(data[:10]) + gzip.compress(data[10:]))
    compress = zstandard.ZstdCompressor().compress
    (folder / "c.jsonl.zst").write_bytes(compress(data[:10]) + compress(data[10:]))
    found = read_all(index(folder, layout))
    assert found == [(f, n, d) for f in range(3) for n, d in ((1, b'{"a": 1}'), (3, b'{"b": "\xc3\xbc"}'))]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["truncated", "cut behind its first frame", "garbage", "garbage at its end"])
def test_a_damaged_compressed_input_is_refused_by_name(
    tmp_path: Path, layout: OutputLayout, suffix: str, kind: str
) -> None:
    data = os.urandom(3000)
    packed = gzip.compress(data) if suffix == ".gz" else zstandard.ZstdCompressor(write_checksum=True).compress(data)
    (tmp_path / "data").mkdir()
    content = {
        "truncated": packed[:-900],
        "cut behind its first frame": packed + packed[:-900],
        "garbage": b"nothing",
        "garbage at its end": packed + b"nothing",
    }
    (tmp_path / "data" / f"a.jsonl{suffix}").write_bytes(content[kind])
    with pytest.raises(ConfigError, match=rf"a\.jsonl{suffix}: cannot be read to its end"):
        index(tmp_path / "data", layout)


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 7])
def test_a_limit_takes_the_first_records(tmp_path: Path, layout: OutputLayout, limit: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"1\n\n2\n3\n")
    (folder / "b.jsonl").write_bytes(b"4\n5\n")
    (folder / "c.jsonl").write_bytes(b"6\n")
    found = [data for _, _, data in read_all(index(folder, layout, limit))]
    assert found == [b"1", b"2", b"3", b"4", b"5", b"6"][:limit]


def test_inputs_are_searched_recursively_and_sorted(tmp_path: Path) -> None:
    for name in (
        "b.jsonl",
        "a/z.jsonl.gz",
        "a/c.jsonl.zst",
        "a/notes.txt",
        "b.rejects.jsonl",
        ".hidden.jsonl",
        ".git/x.jsonl",
        "out/rejects.jsonl",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    files, others = find_inputs(tmp_path, tmp_path / "out")
    assert [file.path for file in files] == ["a/c.jsonl.zst", "a/z.jsonl.gz", "b.jsonl"]
    assert others == ["a/notes.txt", "b.rejects.jsonl"]


def test_a_single_file_is_a_valid_input(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text("{}")
    files, _ = find_inputs(tmp_path / "one.jsonl", tmp_path / "out")
    assert [(file.path, file.bytes) for file in files] == [("one.jsonl", 2)]


def test_files_that_are_not_jsonl_are_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        find_inputs(tmp_path / "nope", tmp_path / "out")
    with pytest.raises(ConfigError, match="found no input file"):
        find_inputs(tmp_path, tmp_path / "out")
    (tmp_path / "data.json").write_text("[]")
    for where in (tmp_path, tmp_path / "data.json"):
        with pytest.raises(ConfigError, match=rf"data\.json is JSON.*convert_json2jsonl --input_dir {tmp_path}"):
            find_inputs(where, tmp_path / "out")


def test_inputs_that_are_not_regular_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match=r"a\.jsonl: is not a regular file"):
        find_inputs(tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"expected \.jsonl"):
        find_inputs(Path("/dev/null"), tmp_path / "out")


def test_an_empty_compressed_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").touch()
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz: has 0 bytes"):
        find_inputs(tmp_path, tmp_path / "out")


def test_the_output_folder_is_not_read_as_input(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match="is also the input folder"):
        find_inputs(tmp_path, tmp_path / ".")
    OutputLayout(tmp_path / "earlier").work.mkdir(parents=True)
    OutputLayout(tmp_path / "earlier").plan.touch()
    (tmp_path / "earlier" / "rejects.jsonl").write_text("{}")
    assert [file.path for file in find_inputs(tmp_path, tmp_path / "out")[0]] == ["a.jsonl"]


def test_files_of_the_user_beside_an_output_are_inputs_before_and_after_the_run(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    for name in ("current", "earlier"):
        (tmp_path / name / "more").mkdir(parents=True)
        for own in ("b.jsonl", "more/c.jsonl", "notes.json"):
            (tmp_path / name / own).write_text("{}")
    current = OutputLayout(tmp_path / "current")
    before = find_inputs(tmp_path, current.root)
    assert [file.path for file in before[0]] == [
        "a.jsonl",
        "current/b.jsonl",
        "current/more/c.jsonl",
        "earlier/b.jsonl",
        "earlier/more/c.jsonl",
    ]
    assert before[1] == ["current/notes.json", "earlier/notes.json"]
    # A run first writes its plan; the work folder of a finished run may have been removed.
    for layout, written in (
        (current, [current.rejects, current.plan, current.shard(0, 1), current.data_params, current.report]),
        (earlier := OutputLayout(tmp_path / "earlier"), [earlier.plan, earlier.rejects, earlier.data_params]),
    ):
        layout.work.mkdir()
        for path in written:
            path.write_text("{}")
            assert find_inputs(tmp_path, current.root) == before
    earlier.plan.unlink()
    assert find_inputs(tmp_path, current.root) == before


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, forbid: Callable[[Path], None]) -> None:
    (tmp_path / "data" / "b").mkdir(parents=True)
    (tmp_path / "data" / "a.jsonl").write_text("{}")
    for folder in (tmp_path / "data" / "b", tmp_path / "data"):
        forbid(folder)
        with pytest.raises(ConfigError, match=f"^{folder}: Permission denied; make the folder readable$"):
            find_inputs(tmp_path / "data", tmp_path / "out")


def test_files_that_are_not_read_are_listed(tmp_path: Path) -> None:
    for name in ("a.jsonl", "B.JSONL", "c.json", "d.jsonl.bz2", "e.txt", "f.png", "g.rejects.jsonl"):
        (tmp_path / name).write_text("{}")
    files, others = find_inputs(tmp_path, tmp_path / "out")
    assert [file.path for file in files] == ["B.JSONL", "a.jsonl"]
    assert unread_data(others) == ["c.json", "d.jsonl.bz2"]


def test_a_second_file_changed_after_planning_is_refused_by_name(tmp_path: Path, layout: OutputLayout) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jsonl").write_bytes(b"1\n2\n")
    reader = index(folder, layout)
    (folder / "b.jsonl").write_bytes(b"1\n")
    with pytest.raises(InputChangedError, match=r"b\.jsonl: was changed"):
        read_all(reader)
    (folder / "b.jsonl").unlink()
    with pytest.raises(InputChangedError, match=r"b\.jsonl: was removed"):
        read_all(reader)


def test_a_file_changed_after_planning_is_refused_by_name(tmp_path: Path, layout: OutputLayout) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"1\n2\n")
    reader = index(folder, layout)
    os.utime(folder / "a.jsonl", ns=(1, 1))
    with pytest.raises(InputChangedError, match=r"a\.jsonl: was changed"):
        read_all(reader)
    (folder / "a.jsonl").unlink()
    with pytest.raises(InputChangedError, match=r"a\.jsonl: was removed"):
        read_all(reader)
