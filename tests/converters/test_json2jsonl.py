import json
import os
import subprocess
import sys

import pytest
from real_excerpts import SHARED, with_real_excerpts

from preprocess.preprocess_dataset import convert_json2jsonl_main

RECORD = '{"id": 1.50, "b": "\\u00e9é", "a": [1, 2 ], "a": 1e5}'


@pytest.fixture
def convert(preprocess, tmp_path):
    def run(*more, source=tmp_path / "in", into=tmp_path / "in_to_jsonl"):
        return preprocess("convert_json2jsonl", "--input_dir", source, *more, into=into)

    return run


def test_nested_folders_are_searched_and_kept(convert, tmp_path, write_json):
    for name in ("b.json", "a/z.json", "a/b/c.JSON"):
        write_json(tmp_path / "in" / name, [{"id": name}])
    (tmp_path / "in/readme.txt").write_text("no JSON")
    write_json(tmp_path / "in/.hidden.json", "x")
    write_json(tmp_path / "in/.git/config.json", "x")
    result = convert()
    assert result.code == 0
    out = tmp_path / "in_to_jsonl"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.jsonl")) == [
        "a/b/c.jsonl",
        "a/z.jsonl",
        "b.jsonl",
    ]
    assert [line.split()[1].removesuffix(":") for line in result.out.splitlines()[:3]] == [
        str(out / "a/b/c.jsonl"),
        str(out / "a/z.jsonl"),
        str(out / "b.jsonl"),
    ]
    assert "3 files: 3 read = 3 written + 0 rejected" in result.out


def test_a_record_keeps_every_significant_byte(convert, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.json").write_text(f"\ufeff [ {RECORD},\n{RECORD}\t]\n", encoding="utf-8")
    convert()
    assert (tmp_path / "in_to_jsonl/x.jsonl").read_text(encoding="utf-8") == f"{RECORD}\n{RECORD}\n"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("indent", [None, 0, 4, "\t"])
def test_each_pretty_printed_record_becomes_one_line(convert, tmp_path, indent, line_end):
    records = [{"id": i, "text": "one\ntwo  three", "list": [1, {"k": [2]}], "empty": {}} for i in range(50)]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.json").write_bytes(json.dumps(records, indent=indent).replace("\n", line_end).encode())
    assert convert().records == records
    lines = (tmp_path / "in_to_jsonl/x.jsonl").read_bytes().split(b"\n")
    assert len(lines) == 51
    if indent:
        assert lines[0] == b'{"id": 0,"text": "one\\ntwo  three","list": [1,{"k": [2]}],"empty": {}}'


def test_an_empty_array_becomes_an_empty_file(convert, tmp_path, write_json):
    write_json(tmp_path / "in/x.json", [])
    assert "0 read = 0 written" in convert().out
    assert (tmp_path / "in_to_jsonl/x.jsonl").read_bytes() == b""


def test_a_broken_file_is_named_with_byte_offset_and_has_no_output(convert, tmp_path, write_json):
    write_json(tmp_path / "in/a.json", [1])
    (tmp_path / "in/b.json").write_text('[{"a": 1}, {"a": NaN}]')
    write_json(tmp_path / "in/c.json", [3])
    result = convert()
    assert result.code == 2
    assert result.err == (
        f"preprocess_dataset convert_json2jsonl: {tmp_path / 'in/b.json'}: byte 17: NaN is not JSON; "
        "correct the file, or download it again\n"
    )
    assert sorted(path.name for path in (tmp_path / "in_to_jsonl").iterdir()) == ["a.jsonl", "a.jsonl.receipt"]
    write_json(tmp_path / "in/b.json", [2])
    repaired = convert()
    assert repaired.records == [1, 2, 3]
    assert repaired.out.count("finished earlier") == 1


def test_an_object_at_the_top_is_refused_with_what_was_expected(convert, tmp_path, write_json):
    write_json(tmp_path / "in/a.json", {"data": []})
    result = convert()
    assert result.code == 2
    assert "byte 0: found '{', expected an array '['; check that this is the right file" in result.err


def test_a_file_of_json_lines_is_refused_with_the_advice_to_rename_it(convert, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n')
    result = convert()
    assert "has one object a line, expected an array; rename it to a.jsonl" in result.err


def test_the_output_folder_can_be_given_and_a_trailing_slash_of_the_input_is_ignored(convert, tmp_path, write_json):
    write_json(tmp_path / "in/a.json", [1])
    assert convert(source=f"{tmp_path}/in/").records == [1]
    assert convert("--output_dir", tmp_path / "out", into=tmp_path / "out").records == [1]


def test_the_current_folder_as_input_gives_an_output_named_after_it(preprocess, tmp_path, write_json, monkeypatch):
    write_json(tmp_path / "in/a.json", [1])
    monkeypatch.chdir(tmp_path / "in")
    assert preprocess("convert_json2jsonl", "--input_dir", ".", into=tmp_path / "in_to_jsonl").records == [1]


def test_links_to_folders_are_followed_only_once(convert, tmp_path, write_json):
    write_json(tmp_path / "elsewhere/a.json", [1])
    (tmp_path / "in").mkdir()
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "in")
    assert convert().records == [1]


def test_a_folder_that_cannot_be_listed_is_refused(convert, tmp_path, write_json, forbid):
    write_json(tmp_path / "in/a.json", [{"id": 1}])
    write_json(tmp_path / "in/b/c.json", [{"id": 2}])
    for folder in (tmp_path / "in/b", tmp_path / "in"):
        forbid(folder)
        result = convert()
        assert (result.code, result.records) == (2, [])
        assert f"convert_json2jsonl: {folder}: Permission denied; correct the permissions" in result.err
        assert result.err.count("\n") == 1


def test_two_inputs_for_one_output_are_refused(convert, tmp_path, write_json):
    write_json(tmp_path / "in/a.json", [1])
    write_json(tmp_path / "in/a.JSON", [2])
    if len(list((tmp_path / "in").iterdir())) == 1:
        pytest.skip("this file system does not tell a.json from a.JSON")
    result = convert()
    assert result.code == 2
    assert "would both be written to" in result.err


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "which does not exist; expected a folder"),
        (lambda folder: folder.write_text("[]"), "which is a file; expected a folder"),
        (lambda folder: folder.mkdir(), "which has no .json files"),
        (lambda folder: (folder.mkdir(), (folder / "a.jsonl").touch()), "its .jsonl files need no conversion"),
    ],
)
def test_an_input_without_json_files_is_a_wrong_argument(convert, tmp_path, make, message):
    make(tmp_path / "in")
    result = convert()
    assert result.code == 2
    assert message in result.err
    assert not (tmp_path / "in_to_jsonl").exists()


def test_the_separate_command_does_the_same(tmp_path, write_json, capsys):
    write_json(tmp_path / "in/a.json", [1])
    assert convert_json2jsonl_main(["--input_dir", str(tmp_path / "in")]) == 0
    assert (tmp_path / "in_to_jsonl/a.jsonl").read_text() == "1\n"
    assert convert_json2jsonl_main(["--input_dir", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("convert_json2jsonl: ")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_memory_stays_far_below_the_size_of_the_file(tmp_path):
    record = json.dumps({"id": "000000001", "image": "a/b.jpg", "text": "some words of a conversation " * 30})
    path = tmp_path / "in/big.json"
    path.parent.mkdir()
    with open(path, "w") as file:
        file.write(f"[{record}")
        for _ in range(150):
            file.write(f",\n {record}" * 1000)
        file.write("]")
    size = path.stat().st_size
    assert size > 130 << 20
    script = "import sys; from preprocess.preprocess_dataset import convert_json2jsonl_main as main\n"
    script += "assert main(sys.argv[1:]) == 0\n"
    # Not ru_maxrss, which includes the memory of the parent process.
    script += "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    command = [sys.executable, "-c", script, "--input_dir", str(path.parent)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "150,001 read = 150,001 written" in printed
    assert int(printed.split()[-1]) * 1024 < 100 << 20
    os.remove(path)


@with_real_excerpts
def test_real_files_have_the_same_values_afterwards(convert, tmp_path):
    (tmp_path / "in").mkdir()
    sources = sorted((SHARED / "conversations").glob("*.json"))
    for source in sources:
        (tmp_path / "in" / source.name).write_bytes(source.read_bytes())
    result = convert()
    assert result.code == 0, result.err
    assert len(sources) >= 5
    for source in sources:
        lines = (tmp_path / "in_to_jsonl" / source.name).with_suffix(".jsonl").read_text("utf-8").split("\n")
        hook = {"parse_float": str, "parse_int": str, "object_pairs_hook": tuple}
        assert [json.loads(line, **hook) for line in lines[:-1]] == json.loads(source.read_text("utf-8"), **hook)
