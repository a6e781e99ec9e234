"""The command `inspect_hdf5`: selected rows, messages and exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from conftest import QUICKSTART, ConfigMaker, create, turn_pair, write_jsonl

from hdf5_writer.inspect_hdf5 import main


@pytest.fixture
def out(tmp_path: Path, make_config: ConfigMaker) -> Path:
    """The example, and a rejected record on line 56."""
    lines = (QUICKSTART / "phase_2" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    rejected = {"conversations": turn_pair("Q?", "")}
    write_jsonl(tmp_path / "in" / "sub" / "a.jsonl", [*map(json.loads, lines), rejected])
    create(make_config(setup__samples_per_shard=20))
    return tmp_path / "out"


def shown(out: Path, *arguments: str) -> list[tuple[int, str]]:
    """(row, source) of the rows on the page."""
    assert main([str(out), *arguments]) == 0
    page = (out / "rows.html").read_text(encoding="utf-8")
    found = re.findall(r'id="row-(\d+)">\s*<header><h2>[^<]*</h2>\s*<span><code>([^<]*)</code>', page)
    return [(int(number), source) for number, source in found]


@pytest.mark.slow
def test_rows_are_selected_by_number_at_random_by_source_image_and_kind(out: Path) -> None:
    assert [number for number, _ in shown(out)] == list(range(20))
    assert [number for number, _ in shown(out, "--rows", "18:23")] == [18, 19, 20, 21, 22]
    assert [number for number, _ in shown(out, "--rows", "50:")] == [50, 51, 52, 53, 54]
    drawn = [number for number, _ in shown(out, "--random", "7", "--seed", "3")]
    assert len(set(drawn)) == 7
    assert drawn == [number for number, _ in shown(out, "--random", "7", "--seed", "3")]
    assert drawn != [number for number, _ in shown(out, "--random", "7", "--seed", "4")]
    for name in ("sub/a.jsonl", "/data/in/sub/a.jsonl"):
        assert [source for _, source in shown(out, "--source", f"{name}:12")] == ["sub/a.jsonl:12"]
    assert len(shown(out, "--image", "shapes/0012.png")) == 1
    assert len(shown(out, "--text-only")) == 15
    assert len(shown(out, "--text-only", "--most", "4")) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (["--image", "shapes/0012.png"], "the only row with the image shapes/0012.png"),
        (["--text-only", "--most", "4"], "the first 4 rows without an image"),
        (["--text-only", "--most", "15"], "the 15 rows without an image"),
    ],
)
def test_the_page_says_whether_there_are_more_rows(out: Path, selection: list[str], words: str) -> None:
    shown(out, *selection)
    assert words in (out / "rows.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rows", "99:100"], "the dataset has 55 rows, 0 to 54"),
        (["--rows", "0:501"], ""),
        (["--random", "501"], "a page shows at most 500"),
        (["--source", "b.jsonl:1"], "is not one of the 1 inputs"),
        (["--source", "sub/a.jsonl:56"], "was rejected (empty_answer: the answer of round 1 is empty)"),
        (["--source", "sub/a.jsonl:99"], "is blank, or past the end of the file"),
        (["--image", "no.png"], "no row has it"),
        (["--compare", "/no/such"], "no such folder"),
    ],
)
def test_a_selection_without_rows_is_a_one_line_error(
    out: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([str(out), *arguments])
    stderr = capsys.readouterr().err
    if not sentence:  # asking for more rows than exist is not an error
        assert (code, stderr) == (0, "")
        return
    assert code == 2
    assert sentence in stderr
    assert stderr.startswith("inspect_hdf5: ")
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--rows", "5:2"], ["--rows", "x"], ["--source", "a"], ["--random", "0"]])
def test_invalid_arguments_are_refused(out: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(out), *arguments])
    assert stopped.value.code == 2


def test_a_folder_that_is_not_a_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "this is not a finished dataset" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_damaged_shard_gives_exit_code_1(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = next(out.glob("examples-00000*"))
    shard.write_bytes(shard.read_bytes()[:100])
    assert main([str(out)]) == 1
    stderr = capsys.readouterr().err
    assert f"{shard}: is damaged or truncated" in stderr
    assert "verify_hdf5_dataset" in stderr


def test_a_shard_without_read_permission_is_exit_code_1(
    out: Path, forbid: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    shard = next(out.glob("examples-00000*"))
    forbid(shard)
    assert main([str(out)]) == 1
    assert capsys.readouterr().err == (f"inspect_hdf5: {shard}: cannot be read (Permission denied); make it readable\n")


def test_an_image_folder_that_does_not_exist_is_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(out), "--image-dir", str(out / "nope")]) == 2
    assert f"inspect_hdf5: image folder {out / 'nope'}: no such folder; give the one that" in capsys.readouterr().err


def test_a_damaged_row_names_its_shard(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = next(out.glob("examples-00001*"))
    with h5py.File(shard) as file:
        chunk = file["labels"].id.get_chunk_info(0)
    data = bytearray(shard.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 255
    shard.write_bytes(bytes(data))
    assert main([str(out), "--rows", "0:20"]) == 0
    assert main([str(out), "--rows", "20:21"]) == 1
    assert f"inspect_hdf5: {shard}: is damaged or truncated" in capsys.readouterr().err


@pytest.mark.slow
def test_without_the_tokenizer_ids_are_shown_with_a_note(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(out), "--tokenizer", str(out), "--terminal"]) == 0
    captured = capsys.readouterr()
    assert "Ids only" in captured.err
    assert "Ids only" in (out / "rows.html").read_text(encoding="utf-8")
    assert re.search(r"\[\d", captured.out)


def test_relative_paths_refer_to_the_working_directory_of_the_run(
    tmp_path: Path, make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").symlink_to(QUICKSTART)
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"image": "0001.png", "conversations": turn_pair("<image>?", "That.")}])
    monkeypatch.chdir(tmp_path)
    create(make_config(processor__tokenizer_type="data/tokenizer", dataset__image_dir="data/images/shapes"))
    monkeypatch.chdir("/")
    assert main([str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err == ""
    page = (tmp_path / "out" / "rows.html").read_text(encoding="utf-8")
    assert "data:image/jpeg" in page
    assert "That." in page


@pytest.mark.slow
def test_the_page_can_be_written_to_another_path(out: Path, tmp_path: Path) -> None:
    assert main([str(out), "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").exists()
    assert not (out / "rows.html").exists()


@pytest.mark.slow
def test_for_a_page_that_cannot_be_written_output_is_suggested(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "rows.html").mkdir()
    assert main([str(out)]) == 1
    assert main([str(out), "--output", str(tmp_path / "no" / "page.html")]) == 1
    assert main([str(out), "--compare", str(out)]) == 1
    stderr = capsys.readouterr().err.splitlines()
    assert len(stderr) == 3
    assert all("--output FILE" in line and "verify" not in line for line in stderr)


@pytest.mark.slow
def test_text_for_a_file_has_no_colours(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(out), "--terminal", "--rows", "0:3"]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_rows_give_the_same_page(out: Path, tmp_path: Path) -> None:
    pages = []
    for name in ("one.html", "two.html"):
        assert main([str(out), "--output", str(tmp_path / name)]) == 0
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_a_file_that_is_not_a_page_is_not_replaced(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard, page = next(out.glob("*.h5")), out / "rows.html"
    before = shard.read_bytes()
    assert main([str(out), "--output", str(shard)]) == 2
    assert f"--output {shard}: the page is HTML; give a file name that ends in .html" in capsys.readouterr().err
    assert shard.read_bytes() == before
    page.write_text("<html>mine</html>")
    assert main([str(out)]) == 2
    assert f"{page}: exists and is not a page of inspect_hdf5; remove it, or give another" in capsys.readouterr().err
    assert page.read_text() == "<html>mine</html>"


def test_datasets_without_a_common_record_are_named(
    out: Path, tmp_path: Path, make_config: ConfigMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "other_in" / "b.jsonl", [{"conversations": turn_pair("Q?", "A.")}])
    create(make_config(setup__input_dir=str(tmp_path / "other_in"), setup__output_dir=str(tmp_path / "other")))
    sentence = "none of the 55 selected records is in the other dataset (records are matched by input file and line)"
    assert main([str(out), "--compare", str(tmp_path / "other")]) == 0
    assert f"rows.html: no record in common: {sentence}" in capsys.readouterr().out
    page = (out / "rows.html").read_text()
    assert f"No record in common: {sentence}" in page
    assert "No differences." not in page
