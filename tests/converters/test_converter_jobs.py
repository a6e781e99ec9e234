import json
import os
import re
import shutil

import pytest
from interruption import contents, killed_at

from preprocess.converters.core import job
from preprocess.preprocess_dataset import main

ENTRIES = [{"question_id": i, "question": "q", "answer": "a" if i % 3 else "", "image": "x.png"} for i in range(100)]


@pytest.fixture
def dvqa(preprocess, tmp_path, write_json):
    folder = tmp_path / "qa"
    write_json(folder / "train_qa.json", ENTRIES)
    write_json(folder / "val_easy_qa.json", ENTRIES[:10])

    def run(*more):
        return preprocess("dvqa", "--dataset_folder", folder, *more, into=folder / "llava_jsonl")

    run.folder = folder
    run.out = folder / "llava_jsonl"
    return run


def test_the_same_input_gives_the_same_bytes(dvqa):
    dvqa()
    first = contents(dvqa.out)
    shutil.rmtree(dvqa.out)
    dvqa()
    assert contents(dvqa.out) == first
    assert set(first) == {
        "train/train_qa.jsonl",
        "train/train_qa.jsonl.receipt",
        "train/train_qa.rejects.jsonl",
        "val_easy/val_easy_qa.jsonl",
        "val_easy/val_easy_qa.jsonl.receipt",
        "val_easy/val_easy_qa.rejects.jsonl",
    }


def test_a_rerun_over_a_finished_output_changes_nothing_and_reports_it(dvqa):
    first = dvqa()
    before = {path: path.stat().st_mtime_ns for path in dvqa.out.rglob("*")}
    again = dvqa()
    assert again.code == 0
    assert {path: path.stat().st_mtime_ns for path in dvqa.out.rglob("*")} == before
    assert again.out.count("finished earlier, nothing to do: ") == 2
    assert again.out.splitlines()[-1] == first.out.splitlines()[-1] == "2 files: 110 read = 72 written + 38 rejected"


def test_rejects_name_file_place_reason_and_detail(dvqa):
    result = dvqa()
    assert result.rejects[0] == {
        "file": "train_qa.json",
        "position": "element 0",
        "reason": "no_answer",
        "detail": "answer is empty",
    }
    assert f"rejected: 34 no_answer; listed in {dvqa.out / 'train/train_qa.rejects.jsonl'}\n" in result.out


def test_an_input_without_any_usable_record_is_a_wrong_input(dvqa, write_json):
    write_json(dvqa.folder / "train_qa.json", [[], 1])
    write_json(dvqa.folder / "val_easy_qa.json", [])
    result = dvqa()
    assert result.code == 2
    assert "no records were written (2 rejected); see the rejects for the reasons" in result.err
    assert result.reasons == [("element 0", "not_an_object"), ("element 1", "not_an_object")]
    assert dvqa().code == 2


def touch(path):
    os.utime(path, ns=(1, 1))


def grow(path):
    path.write_text(path.read_text() + " ")


def add_to_output(path):
    (path.parent / "llava_jsonl/train/train_qa.jsonl").open("a").write("{}\n")


def lose_receipt(path):
    (path.parent / "llava_jsonl/train/train_qa.jsonl.receipt").unlink()


def spoil_receipt(path):
    (path.parent / "llava_jsonl/train/train_qa.jsonl.receipt").write_text("{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (touch, "train_qa.json has been changed or copied since"),
        (grow, r"train_qa.json had [\d,]+ bytes and has [\d,]+ now"),
        (add_to_output, r"train_qa.jsonl has [\d,]+ bytes, expected [\d,]+ as written"),
        (lose_receipt, "train_qa.jsonl exists but has no receipt"),
        (spoil_receipt, "train_qa.jsonl exists but has no receipt"),
    ],
)
def test_a_changed_input_output_or_receipt_is_refused_without_overwrite(dvqa, change, message):
    dvqa()
    change(dvqa.folder / "train_qa.json")
    before = contents(dvqa.out)
    refused = dvqa()
    assert refused.code == 2
    assert re.search(message, refused.err)
    assert "--overwrite to replace it" in refused.err
    assert contents(dvqa.out) == before
    assert dvqa("--overwrite").code == 0
    assert dvqa().out.count("finished earlier") == 2


def test_changed_arguments_are_refused_and_named(preprocess, tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_text(json.dumps({"image": "1.jpg", "caption": "c"}) + "\n")
    out = tmp_path / "out"
    arguments = ["captions", "--input", source, "--format", "jsonl", "--output_jsonl_dir", out, "--image_prefix"]
    assert preprocess(*arguments, "one", into=out).code == 0
    result = preprocess(*arguments, "two", into=out)
    assert result.code == 2
    assert "image_prefix was 'one' and is 'two' now" in result.err


def test_deleted_outputs_and_rejects_are_written_again(dvqa):
    dvqa()
    before = contents(dvqa.out)
    (dvqa.out / "train/train_qa.rejects.jsonl").unlink()
    (dvqa.out / "val_easy/val_easy_qa.jsonl").unlink()
    assert dvqa().out.count("wrote ") == 2
    assert contents(dvqa.out) == before


def test_rejects_of_an_older_output_are_deleted_when_it_is_overwritten(dvqa, write_json):
    dvqa()
    write_json(dvqa.folder / "train_qa.json", [ENTRIES[1]])
    result = dvqa("--overwrite")
    assert not (dvqa.out / "train/train_qa.rejects.jsonl").exists()
    assert len(result.records) == 1 + 6


@pytest.mark.faults
def test_a_run_killed_at_any_step_leaves_nothing_that_looks_finished_and_is_resumed(dvqa):
    dvqa()
    whole = contents(dvqa.out)
    outputs = {name for name in whole if name.endswith(".jsonl") and not name.endswith(".rejects.jsonl")}
    arguments = ["dvqa", "--dataset_folder", str(dvqa.folder)]
    steps = 0
    for step in range(1, 200):
        shutil.rmtree(dvqa.out)
        if not killed_at(step, arguments):
            break
        steps += 1
        for name in outputs & set(contents(dvqa.out)):
            assert contents(dvqa.out)[name] == whole[name]
            assert f"{name}.receipt" in contents(dvqa.out)
        assert main(arguments) == 0
        assert contents(dvqa.out) == whole
    assert 20 < steps < 199


@pytest.mark.faults
def test_a_run_killed_while_overwriting_starts_again(dvqa, write_json):
    arguments = ["dvqa", "--dataset_folder", str(dvqa.folder)]
    for step in range(1, 200):
        shutil.rmtree(dvqa.out, ignore_errors=True)
        write_json(dvqa.folder / "train_qa.json", ENTRIES)
        assert main(arguments) == 0
        # The new output has the size of the old one: only its receipt could distinguish them.
        write_json(dvqa.folder / "train_qa.json", [{**entry, "image": "y.png"} for entry in ENTRIES])
        if not killed_at(step, [*arguments, "--overwrite"]):
            break
        code = main(arguments)
        records = dvqa().records
        assert code == 2 or {record["image"] for record in records[:66]} == {"DVQA/images/y.png"}
    assert step > 10


def test_an_input_that_changes_during_reading_is_an_error(dvqa, monkeypatch):
    finish = job.Sink.finish

    def changing(sink):
        grow(dvqa.folder / "train_qa.json")
        return finish(sink)

    monkeypatch.setattr(job.Sink, "finish", changing)
    result = dvqa()
    assert result.code == 2
    assert "an input changed while it was read" in result.err
    assert contents(dvqa.out) == {}


def test_a_full_disk_is_a_failure_in_one_sentence(dvqa, monkeypatch):
    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "write_all", full)
    result = dvqa()
    assert result.code == 1
    assert result.err == (
        "preprocess_dataset dvqa: No space left on device; finished outputs are kept: fix this and rerun\n"
    )
    assert contents(dvqa.out) == {}


def test_an_input_without_read_permission_is_a_wrong_input(dvqa, monkeypatch):
    def forbidden(sink, *arguments):
        raise PermissionError(13, "Permission denied", "train_qa.json")

    monkeypatch.setattr(job.Sink, "convert", forbidden)
    result = dvqa()
    assert result.code == 2
    assert result.err == (
        "preprocess_dataset dvqa: train_qa.json: Permission denied; correct the permissions, or give another path\n"
    )


def test_an_interrupt_is_a_failure_in_one_sentence(dvqa, monkeypatch):
    def interrupt(sink):
        raise KeyboardInterrupt

    monkeypatch.setattr(job.Sink, "finish", interrupt)
    result = dvqa()
    assert result.code == 1
    assert result.err == "preprocess_dataset dvqa: interrupted; finished outputs are kept: rerun to resume\n"
    assert contents(dvqa.out) == {}


def test_an_impossible_output_folder_is_a_wrong_argument(dvqa, tmp_path):
    (tmp_path / "a file").write_text("")
    result = dvqa("--output_jsonl_dir", tmp_path / "a file/out")
    assert result.code == 2
    assert "cannot write to" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_a_read_only_output_folder_is_a_wrong_argument(dvqa, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    result = dvqa("--output_jsonl_dir", tmp_path / "closed")
    assert result.code == 2
    assert "Permission denied" in result.err
