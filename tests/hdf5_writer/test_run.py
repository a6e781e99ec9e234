"""From records to a finished folder, in one process: rejects, resuming, errors. test_commands.py runs commands."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from conftest import (
    QUICKSTART,
    ConfigMaker,
    InlineExecutor,
    SilentProgress,
    create,
    needs_shared,
    output_digests,
    shared_folder,
    turn_pair,
    write_jsonl,
)

from hdf5_writer import task as task_module
from hdf5_writer.layout import OutputLayout
from hdf5_writer.lock import locked
from hdf5_writer.planning.inputs import LONGEST_LINE, InputChangedError
from hdf5_writer.planning.plan import OtherPlanError
from hdf5_writer.run import Part, create_dataset, create_part, finalize
from hdf5_writer.verify import verify_dataset
from preprocess import atomic_files
from preprocess.config import ConfigError
from preprocess.rejects import Reason

IMAGE = "shapes/0001.png"


def image_record(question: str = "<image>\nWhat?", answer: str = "A shape.") -> dict[str, Any]:
    return {"image": IMAGE, "conversations": turn_pair(question, answer)}


def text_record(number: int) -> dict[str, Any]:
    return {"id": f"t{number}", "conversations": turn_pair(f"Question {number}?", f"Answer {number}.")}


def rejects_of(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]


# One line of a file for every reason.
REJECTED_LINES: dict[Reason, bytes] = {
    Reason.NOT_UTF8: b'{"conversations": "\xff"}',
    Reason.NOT_JSON: b'{"conversations": ',
    Reason.NOT_AN_OBJECT: b"[1, 2]",
}
REJECTED_RECORDS: dict[Reason, Any] = {
    Reason.UNSUPPORTED_MEDIA: {"video": "a.mp4", "conversations": turn_pair("<video>\nQ", "A")},
    Reason.NO_TURNS: {"conversations": []},
    Reason.BAD_TURN: {"conversations": ["Q", "A"]},
    Reason.UNKNOWN_ROLE: {"conversations": [{"from": "bot", "value": "Q"}, {"from": "gpt", "value": "A"}]},
    Reason.TOOL_TURN: {"conversations": [*turn_pair("Q", "A"), {"from": "observation", "value": "{}"}]},
    Reason.TWO_SYSTEM_TEXTS: {"system": "S", "system_prompt": "S", "conversations": turn_pair("Q", "A")},
    Reason.SYSTEM_NOT_FIRST: {"conversations": [*turn_pair("Q", "A"), {"from": "system", "value": "S"}]},
    Reason.ROLE_ORDER: {"conversations": [{"from": "human", "value": "Q"}, {"from": "human", "value": "A"}]},
    Reason.ODD_TURNS: {"conversations": [*turn_pair("Q", "A"), {"from": "human", "value": "Q"}]},
    Reason.EMPTY_QUESTION: {"conversations": turn_pair("", "A")},
    Reason.EMPTY_ANSWER: {"conversations": turn_pair("Q", "")},
    Reason.IMAGE_NOT_A_PATH: {"image": 3, "conversations": turn_pair("<image>Q", "A")},
    Reason.IMAGE_NOT_LOCAL: {"image": "https://x.org/a.png", "conversations": turn_pair("<image>Q", "A")},
    Reason.TOO_MANY_IMAGES: {"image": [IMAGE, IMAGE], "conversations": turn_pair("<image>Q", "A")},
    Reason.IMAGES_NAMED_TWICE: {"image": IMAGE, "images": [IMAGE], "conversations": turn_pair("<image>Q", "A")},
    Reason.IMAGE_WITHOUT_TOKEN: {"image": IMAGE, "conversations": turn_pair("Q", "A")},
    Reason.TOKEN_WITHOUT_IMAGE: {"conversations": turn_pair("<image>Q", "A")},
    Reason.TOKEN_OUTSIDE_FIRST_TURN: {"image": IMAGE, "conversations": turn_pair("<image>Q", "<image>")},
    Reason.IMAGE_OUTSIDE: {"image": "../x.png", "conversations": turn_pair("<image>Q", "A")},
    Reason.IMAGE_MISSING: {"image": "gone.png", "conversations": turn_pair("<image>Q", "A")},
    Reason.IMAGE_UNREADABLE: {"image": "broken.png", "conversations": turn_pair("<image>Q", "A")},
    Reason.IMAGE_NOT_AT_START_IDX: {**image_record(), "system": "S"},
    Reason.TOO_LONG: {"conversations": turn_pair("Q", "A " * 500)},
}


def test_every_reject_reason_is_reported_with_file_and_line(make_config: ConfigMaker, tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "shapes").mkdir(parents=True)
    (images / IMAGE).write_bytes((QUICKSTART / "images" / IMAGE).read_bytes())
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    lines = {**REJECTED_LINES, **{reason: json.dumps(record).encode() for reason, record in REJECTED_RECORDS.items()}}
    (tmp_path / "in").mkdir()
    good = json.dumps(image_record()).encode()
    (tmp_path / "in" / "a.jsonl").write_bytes(b"\n\n".join([good, *lines.values()]) + b"\n")
    config = make_config(dataset__image_dir=str(images), dataset__check_images="decode", processor__overflow="reject")
    counts = create(config).params["counts"]
    found = rejects_of(tmp_path / "out")
    assert [(entry["file"], entry["line"], entry["reason"]) for entry in found] == [
        ("a.jsonl", 3 + 2 * number, reason.value) for number, reason in enumerate(lines)
    ]
    assert all(entry["detail"] and set(entry) == {"file", "line", "id", "reason", "detail"} for entry in found)
    assert (counts["read"], counts["written"], counts["rejected"]) == (len(lines) + 1, 1, len(lines))
    assert verify_dataset(tmp_path / "out").problems == []


@pytest.mark.slow
def test_the_remaining_reject_reasons_are_reported(make_config: ConfigMaker, tmp_path: Path) -> None:
    plain = {"dataset__system_prompt_style": "plain"}
    write_jsonl(
        tmp_path / "in" / "a.jsonl",
        [text_record(0), {**image_record(), "conversations": turn_pair("<image>", "A") * 2}],
    )
    create(make_config(**plain))
    found = {entry["reason"] for entry in rejects_of(tmp_path / "out")}
    assert found == {Reason.TEXT_ONLY_IN_PLAIN.value, Reason.NOT_ONE_ROUND.value}
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"system": "S", **image_record()}])
    create(make_config(dataset__system_prompt_style="mistral_instruct"), overwrite=True)
    assert [entry["reason"] for entry in rejects_of(tmp_path / "out")] == [Reason.NO_PLACE_FOR_SYSTEM.value]
    # Nothing is supervised if the question alone fills the row.
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"conversations": turn_pair("Q " * 500, "A")}])
    create(make_config(), overwrite=True)
    assert [entry["reason"] for entry in rejects_of(tmp_path / "out")] == [Reason.NOTHING_SUPERVISED.value]
    with (tmp_path / "in" / "a.jsonl").open("wb") as file:
        file.truncate(LONGEST_LINE + 1)
    create(make_config(), overwrite=True)
    assert [entry["reason"] for entry in rejects_of(tmp_path / "out")] == [Reason.LINE_TOO_LONG.value]
    # In test_conversation, test_chat_template, test_features and below.
    elsewhere = {Reason.TOKEN_OUTSIDE_HUMAN_TURN, Reason.SUPERVISED_AT_DUMMY_IMAGE, Reason.SKIPPED}
    elsewhere |= {Reason.CHAT_TEMPLATE_FAILED, Reason.CHAT_TEMPLATE_CHANGES_TEXT}
    here = {Reason.TEXT_ONLY_IN_PLAIN, Reason.NOT_ONE_ROUND, Reason.NOTHING_SUPERVISED, Reason.LINE_TOO_LONG}
    here.add(Reason.NO_PLACE_FOR_SYSTEM)
    assert set(Reason) == {*REJECTED_LINES, *REJECTED_RECORDS, *here, *elsewhere}


@pytest.mark.slow
@needs_shared("conversations")
def test_every_record_of_real_files_is_written_or_rejected(make_config: ConfigMaker, tmp_path: Path) -> None:
    records = 0
    for path in sorted(shared_folder("conversations").iterdir()):
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
        records += len(found)
        write_jsonl(tmp_path / "in" / f"{path.stem}.jsonl", found)
    params = create(make_config(dataset__check_images="none", setup__samples_per_shard=100), keep_going=True).params
    counts = params["counts"]
    assert counts["read"] == records == sum(file["records"] for file in params["inputs"])
    assert counts["read"] == counts["written"] + counts["rejected"]
    assert counts["written"] > 100
    assert len(rejects_of(tmp_path / "out")) == counts["rejected"]
    assert verify_dataset(tmp_path / "out").problems == []


def test_rows_are_in_input_order_without_shuffle(make_config: ConfigMaker, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "b.jsonl", map(text_record, range(5)))
    write_jsonl(tmp_path / "in" / "a" / "c.jsonl", map(text_record, range(5, 8)))
    create(make_config(setup__shuffle=False, setup__samples_per_shard=3))
    sources = []
    for shard in sorted((tmp_path / "out").glob("*.h5")):
        with h5py.File(shard) as file:
            sources += zip(
                file["samples/source_file"][:].tolist(), file["samples/source_line"][:].tolist(), strict=True
            )
    assert sources == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]


def test_data_params_describe_the_shards(make_config: ConfigMaker, tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "in" / "a.jsonl", [*map(text_record, range(5)), image_record(), image_record("Q\n<image>"), {}]
    )
    config = make_config(setup__samples_per_shard=3)
    params = create(config).params
    rows = supervised = attended = with_image = 0
    for entry in params["shards"]:
        with h5py.File(tmp_path / "out" / entry["name"]) as file:
            assert entry["rows"] == file.attrs["n_examples"] == len(file["labels"])
            rows += entry["rows"]
            supervised += int(file["loss_mask"][:].sum())
            attended += int((file["key_padding_mask"][:] == 0).sum())
            with_image += len(file["images/path"])
    tokens, counts = params["tokens"], params["counts"]
    assert (counts["written"], counts["with_image"], counts["text_only"]) == (rows, with_image, rows - with_image)
    assert (counts["images_moved"], counts["rejected_by_reason"]) == (1, {"no_turns": 1})
    assert (tokens["supervised"], tokens["total"]) == (supervised, attended)
    assert tokens["total"] == tokens["text"] + tokens["image"]
    assert tokens["total"] + tokens["padding"] == rows * config.processor.max_sequence_length
    assert sum(params["lengths"]["samples"]) == rows
    assert params["config"] == config.stored_keys()
    assert json.loads((tmp_path / "out" / "data_params.json").read_text())["counts"] == counts


@pytest.fixture
def started(make_config: ConfigMaker, tmp_path: Path) -> Any:
    """A config for 20 records in 5 shards, and the digests of an uninterrupted run in another folder."""
    write_jsonl(tmp_path / "in" / "a.jsonl", [*map(text_record, range(18)), {}, image_record()])
    options = {"setup__samples_per_shard": 4}
    create(make_config(**options, setup__output_dir=str(tmp_path / "uninterrupted")))
    config = make_config(**options)
    return config, output_digests(tmp_path / "uninterrupted")


@pytest.mark.slow
@pytest.mark.parametrize("survivors", range(5))
def test_an_interrupted_run_resumes(started: Any, tmp_path: Path, survivors: int) -> None:
    config, wanted = started

    class Breaking(InlineExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if args[-1] == survivors:
                raise KeyboardInterrupt
            return super().submit(fn, *args, **kwargs)

    with pytest.raises(KeyboardInterrupt):
        create_dataset(config, SilentProgress(), make_executor=Breaking)
    assert not (tmp_path / "out" / "data_params.json").exists()
    progress = SilentProgress()
    create_dataset(config, progress, make_executor=InlineExecutor)
    assert progress.done_before == survivors
    assert progress.finished == list(range(survivors, 5))
    assert output_digests(tmp_path / "out") == wanted


@pytest.mark.slow
def test_a_finished_dataset_is_recognised(started: Any, tmp_path: Path) -> None:
    config, wanted = started
    assert not create(config).already_done
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.name != "lock"}
    outcome = create(config)
    assert outcome.already_done
    assert outcome.params["counts"]["read"] == 20
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert output_digests(tmp_path / "out") == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda out: OutputLayout(out).shard(2, 5).unlink(),
        lambda out: OutputLayout(out).shard(2, 5).write_bytes(b"short"),
        lambda out: OutputLayout(out).receipt(2).unlink(),
        lambda out: OutputLayout(out).receipt(2).write_bytes(b"{}"),
        lambda out: OutputLayout(out).data_params.unlink(),
        lambda out: OutputLayout(out).rejects.unlink(),
        lambda out: OutputLayout(out).rejects.write_bytes(b""),
        lambda out: OutputLayout(out).offsets.unlink(),
        lambda out: (out / ".examples-00000-of-00005.h5.0123456789abcdef0123456789abcdef.tmp").write_bytes(
            b"left by a kill"
        ),
    ],
)
def test_missing_files_are_rewritten(started: Any, tmp_path: Path, damage: Any) -> None:
    config, wanted = started
    create(config)
    damage(tmp_path / "out")
    create(config)
    assert output_digests(tmp_path / "out") == wanted
    assert verify_dataset(tmp_path / "out").problems == []


@pytest.mark.slow
def test_files_left_by_a_dead_worker_are_removed(started: Any, tmp_path: Path) -> None:
    config, wanted = started

    class Replaced(InlineExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            (tmp_path / "out" / ".examples-00002-of-00005.h5.0123456789abcdef0123456789abcdef.tmp").write_bytes(
                b"left by a kill"
            )
            return super().submit(fn, *args, **kwargs)

    create_dataset(config, SilentProgress(), make_executor=Replaced)
    assert output_digests(tmp_path / "out") == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"setup__seed": 5}, r"setup\.seed was 0, is 5"),
        ({"processor__max_sequence_length": 300}, r"max_sequence_length was 256, is 300"),
        ({"dataset__system_prompt_style": "llava_v1"}, "system_prompt_style was vicuna_v1, is llava_v1"),
        ({"dataset__image_dir": str(QUICKSTART)}, r"dataset\.image_dir was"),
        ({"processor__tokenizer_type": str(QUICKSTART / "tokenizer_sentencepiece")}, "the files of the tokenizer"),
    ],
)
def test_an_output_folder_of_another_plan_is_refused_naming_the_difference(
    started: Any, make_config: ConfigMaker, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    config, _ = started
    create(config)
    before = output_digests(tmp_path / "out")
    other = make_config(setup__samples_per_shard=4, **change)
    with pytest.raises(OtherPlanError, match=words):
        create(other)
    assert output_digests(tmp_path / "out") == before
    create(other, overwrite=True)
    assert verify_dataset(tmp_path / "out").problems == []


@pytest.mark.slow
def test_other_inputs_and_another_limit_are_another_plan(started: Any, tmp_path: Path) -> None:
    config, _ = started
    create(config)
    with pytest.raises(OtherPlanError, match="--limit was not given, is 3"):
        create(config, limit=3)
    path = tmp_path / "in" / "a.jsonl"
    text = path.read_text()
    path.write_text(text.replace("Question 7", "Question 8"))
    with pytest.raises(OtherPlanError, match=r"the content of the input a\.jsonl was changed"):
        create(config)
    path.write_text(text + json.dumps(text_record(99)) + "\n")
    with pytest.raises(OtherPlanError, match=r"the input a\.jsonl had \d+ bytes, has \d+"):
        create(config)
    path.rename(tmp_path / "in" / "b.jsonl")
    with pytest.raises(OtherPlanError, match=r"the input a\.jsonl is gone; the input b\.jsonl is new"):
        create(config)


@pytest.mark.slow
def test_changed_file_times_alone_keep_the_plan(started: Any, tmp_path: Path) -> None:
    config, wanted = started
    create(config)
    OutputLayout(tmp_path / "out").shard(1, 5).unlink()
    os.utime(tmp_path / "in" / "a.jsonl", ns=(1, 1))
    progress = SilentProgress()
    create_dataset(config, progress, make_executor=InlineExecutor)
    assert progress.finished == [1]
    assert output_digests(tmp_path / "out") == wanted


def test_a_failed_run_that_wrote_nothing_needs_no_overwrite(make_config: ConfigMaker, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [image_record()])
    with pytest.raises(ConfigError, match=r"a\.jsonl, line 1: .*dataset\.image_dir is missing"):
        create(make_config(dataset__image_dir=None))
    assert create(make_config()).params["counts"]["written"] == 1


@pytest.mark.slow
def test_overwrite_removes_only_files_written_by_runs(started: Any, tmp_path: Path) -> None:
    config, wanted = started
    create(config)
    mine = tmp_path / "out" / "notes.txt"
    mine.write_text("keep me")
    (tmp_path / "out" / "examples-00000-of-00099.h5").write_bytes(b"an older run")
    create(config, overwrite=True)
    assert mine.read_text() == "keep me"
    mine.unlink()
    assert output_digests(tmp_path / "out") == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake",
    [
        {"processor__max_sequence_length": 90},
        {"processor__tokenizer_type": "./no_such_folder"},
        {"dataset__image_dir": "/no/such/folder"},
        {"setup__input_dir": str(QUICKSTART / "images")},
        {"skip_tasks": [5]},
    ],
    ids=str,
)
def test_overwrite_removes_nothing_if_the_config_is_invalid(
    started: Any, make_config: ConfigMaker, tmp_path: Path, mistake: dict[str, Any]
) -> None:
    config, _ = started
    create(config)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    changes = {key: value for key, value in mistake.items() if "__" in key}
    skip = {key: value for key, value in mistake.items() if "__" not in key}
    with pytest.raises(ConfigError):
        create(make_config(setup__samples_per_shard=4, **changes), overwrite=True, **skip)
    assert create(config).already_done
    after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {path for path in after if path.name != "lock"} == {path for path in before if path.name != "lock"}
    assert all(after[path] == before[path] for path in before if path.name != "lock")


@pytest.mark.slow
def test_overwrite_removes_nothing_if_inputs_are_unreadable(started: Any, tmp_path: Path) -> None:
    config, wanted = started
    create(config)
    (tmp_path / "in" / "b.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(ConfigError, match=r"b\.jsonl\.gz: cannot be read to its end"):
        create(config, overwrite=True)
    (tmp_path / "in" / "b.jsonl.gz").unlink()
    assert create(config).already_done
    assert output_digests(tmp_path / "out") == wanted


def test_the_index_of_an_abandoned_plan_is_removed(make_config: ConfigMaker, tmp_path: Path) -> None:
    class Failing(InlineExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            raise OSError("no room")

    line = json.dumps({"conversations": turn_pair("Q", "A")}).encode() + b"\n"
    config = make_config(setup__shuffle=False)
    path = tmp_path / "in" / "a.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\n" + line * 2)
    with pytest.raises(OSError, match="no room"):
        create_dataset(config, SilentProgress(), make_executor=Failing)
    path.write_bytes(line * 3)
    create(config)
    with h5py.File(tmp_path / "out" / "examples-00000-of-00001.h5") as file:
        assert file["samples/source_line"][:].tolist() == [1, 2, 3]


@pytest.mark.slow
def test_temporary_files_of_the_user_are_kept(started: Any, tmp_path: Path) -> None:
    config, _ = started
    (tmp_path / "out").mkdir()
    mine = [tmp_path / "out" / name for name in (".x.tmp", f".notes.txt.{'0' * 32}.tmp", ".report.html.tmp")]
    for path in mine:
        path.write_text("keep me")
    create(config)
    create(config, overwrite=True)
    assert all(path.read_text() == "keep me" for path in mine)


@pytest.mark.slow
def test_a_dataset_without_its_plan_is_not_overwritten(started: Any, tmp_path: Path) -> None:
    config, _ = started
    create(config)
    OutputLayout(tmp_path / "out").plan.unlink()
    with pytest.raises(OtherPlanError, match=r"holds examples-00000-of-00005\.h5, but not the plan"):
        create(config)


@pytest.mark.parametrize("name", ["report.html", "rejects.jsonl", "data_params.json"])
def test_a_file_of_the_user_with_the_name_of_an_output_is_kept(
    make_config: ConfigMaker, tmp_path: Path, name: str
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [text_record(0)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(OtherPlanError, match=rf"holds {name}, but not the plan of the run that wrote it"):
        create(make_config())
    assert (tmp_path / "out" / name).read_text() == "mine"


@pytest.mark.slow
def test_a_full_disk_leaves_no_partial_file(started: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, wanted = started
    real_fsync = os.fsync

    def full(handle: int) -> None:
        if "examples-00002" in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            create(config)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"examples-00000-of-00005.h5", "examples-00001-of-00005.h5", ".work"}
    create(config)
    assert output_digests(tmp_path / "out") == wanted


@pytest.mark.slow
def test_an_input_changed_during_the_run_stops_it(started: Any, tmp_path: Path) -> None:
    config, _ = started

    class Changing(InlineExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if args[-1] == 2:
                os.utime(tmp_path / "in" / "a.jsonl", ns=(1, 1))
            return super().submit(fn, *args, **kwargs)

    with pytest.raises(InputChangedError, match=r"a\.jsonl: was changed"):
        create_dataset(config, SilentProgress(), make_executor=Changing)


@pytest.mark.slow
def test_an_input_replaced_with_the_same_size_and_time_is_detected(started: Any, tmp_path: Path) -> None:
    config, wanted = started
    path = tmp_path / "in" / "a.jsonl"
    data, stat = path.read_bytes(), path.stat()

    class Replacing(InlineExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if args[-1] == 2:
                path.write_bytes(data.replace(b"gpt", b"GPT"))
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            return super().submit(fn, *args, **kwargs)

    with pytest.raises(InputChangedError, match=r"a\.jsonl: its content is not what was planned"):
        create_dataset(config, SilentProgress(), make_executor=Replacing)
    assert not (tmp_path / "out" / "data_params.json").exists()
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    create(config)
    assert output_digests(tmp_path / "out") == wanted, "no shard with records of the other file is left"


@pytest.mark.slow
def test_a_limit_that_ends_inside_an_input_finishes(started: Any) -> None:
    config, _ = started
    assert create(config, limit=7).params["counts"]["read"] == 7


@pytest.mark.slow
def test_a_file_system_without_locks_is_named(started: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    config, _ = started
    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(ConfigError, match=rf"{tmp_path}/out/\.work/lock: cannot be locked .* has no flock"):
        create(config)


@pytest.mark.slow
def test_a_second_concurrent_run_is_refused(started: Any, tmp_path: Path) -> None:
    config, _ = started
    layout = OutputLayout(tmp_path / "out")
    layout.work.mkdir(parents=True)
    with locked(layout.lock), pytest.raises(ConfigError, match=f"another run is writing here.*process {os.getpid()}"):
        create(config)
    create(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"processor__max_sequence_length": 90}, "need at least 98"),
        ({"dataset__image_dir": "/no/such/folder"}, "image_dir /no/such/folder: no such folder"),
        ({"setup__output_dir": "/proc/nope/out"}, "cannot be created or written"),
        ({"dataset__system_prompt_style": "vicuna"}, "did you mean vicuna_v1"),
    ],
)
def test_impossible_settings_are_refused_at_the_start(
    make_config: ConfigMaker, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [text_record(0)])
    with pytest.raises(ConfigError, match=words):
        create(make_config(**changes))
    assert not list(tmp_path.glob("out/*.h5"))


def test_inputs_without_a_record_are_refused(make_config: ConfigMaker, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [])
    with pytest.raises(ConfigError, match="no record in them"):
        create(make_config())


def test_a_shard_may_be_empty(make_config: ConfigMaker, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [{}, {}, text_record(1)])
    params = create(make_config(setup__shuffle=False, setup__samples_per_shard=2)).params
    assert [shard["rows"] for shard in params["shards"]] == [0, 1]
    assert verify_dataset(tmp_path / "out").problems == []


@pytest.mark.slow
def test_a_skipped_task_rejects_all_of_its_records(started: Any, tmp_path: Path) -> None:
    config, _ = started
    progress = SilentProgress()
    counts = create_dataset(config, progress, skip_tasks=[3], make_executor=InlineExecutor).params["counts"]
    assert counts["rejected_by_reason"]["skipped"] == 4
    assert counts["read"] == counts["written"] + counts["rejected"] == 20
    assert verify_dataset(tmp_path / "out").problems == []
    # To process the task after all, remove its shard and run again.
    OutputLayout(tmp_path / "out").shard(3, 5).unlink()
    assert "skipped" not in create(config).params["counts"]["rejected_by_reason"]
    with pytest.raises(ConfigError, match="--skip-task 5: the tasks of this plan are 0 to 4"):
        create(config, skip_tasks=[5], overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2, 1)])
def test_parts_in_any_order_give_the_same_dataset(started: Any, tmp_path: Path, order: tuple[int, ...]) -> None:
    config, wanted = started
    for index in order[:-1]:
        create_part(config, SilentProgress(), Part(index, 4), make_executor=InlineExecutor)
    last = [task for task in range(5) if task % 4 not in order[:-1]]
    if last:
        with pytest.raises(RuntimeError, match=rf"{len(last)} of 5 tasks are not done \({last[0]}"):
            finalize(config)
    create_part(config, SilentProgress(), Part(order[-1], 4), make_executor=InlineExecutor)
    assert not (tmp_path / "out" / "data_params.json").exists()
    assert not finalize(config).already_done
    assert output_digests(tmp_path / "out") == wanted
    assert finalize(config).already_done
    assert create_part(config, SilentProgress(), Part(0, 4), make_executor=InlineExecutor) == 0


class CallBeforeSecondTask(InlineExecutor):
    """Calls a function once, before the second task."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._submitted, self._act = 0, act

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._submitted += 1
        if self._submitted == 2:
            self._act()
            forget_loaded_plan()  # like a newly started worker
        return super().submit(fn, *args, **kwargs)


def forget_loaded_plan() -> None:
    task_module._loaded.key = None


@pytest.mark.slow
def test_a_part_with_other_processes_paths_and_file_times_joins_running_parts(
    started: Any, make_config: ConfigMaker, tmp_path: Path
) -> None:
    config, wanted = started
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "in", copy)
    os.utime(copy / "a.jsonl", ns=(1, 1))
    other = make_config(setup__samples_per_shard=4, setup__processes=3, setup__input_dir=str(copy))
    plans = []

    def second_part() -> None:
        plans.append(OutputLayout(tmp_path / "out").plan.read_bytes())
        create_part(other, SilentProgress(), Part(1, 2), make_executor=InlineExecutor)
        plans.append(OutputLayout(tmp_path / "out").plan.read_bytes())

    create_part(config, SilentProgress(), Part(0, 2), make_executor=lambda _: CallBeforeSecondTask(second_part))
    assert plans[0] == plans[1]
    finalize(config)
    assert output_digests(tmp_path / "out") == wanted


@pytest.mark.slow
def test_a_part_of_another_plan_is_refused_while_parts_are_running(
    started: Any, make_config: ConfigMaker, tmp_path: Path
) -> None:
    config, _ = started
    create_part(config, SilentProgress(), Part(5, 6), make_executor=InlineExecutor)  # plans; has no task
    layout = OutputLayout(tmp_path / "out")
    plan = layout.plan.read_bytes()
    other = make_config(setup__samples_per_shard=4, setup__seed=7)
    with locked(layout.lock, shared=True), pytest.raises(OtherPlanError, match=r"setup\.seed was 0, is 7"):
        create_part(other, SilentProgress(), Part(0, 2), make_executor=InlineExecutor)
    assert layout.plan.read_bytes() == plan
    # A part that runs alone may replace the plan of a run that wrote nothing.
    create_part(other, SilentProgress(), Part(0, 2), make_executor=InlineExecutor)


@pytest.mark.slow
def test_a_part_reports_its_number_of_records(started: Any) -> None:
    config, _ = started
    progress = SilentProgress()
    create_part(config, progress, Part(1, 2), make_executor=InlineExecutor)
    assert progress.records == 8
    create_part(config, progress, Part(0, 2), make_executor=InlineExecutor)
    assert progress.records == 12


@pytest.mark.slow
def test_parts_exclude_a_run_without_parts(started: Any, tmp_path: Path) -> None:
    config, _ = started
    layout = OutputLayout(tmp_path / "out")
    layout.work.mkdir(parents=True)
    with locked(layout.lock, shared=True):
        create_part(config, SilentProgress(), Part(0, 2), make_executor=InlineExecutor)
        for whole in (create, finalize):
            with pytest.raises(ConfigError, match="another run is writing here"):
                whole(config)
    with locked(layout.lock), pytest.raises(ConfigError, match="another run is writing here"):
        create_part(config, SilentProgress(), Part(0, 2), make_executor=InlineExecutor)


@pytest.mark.slow
def test_a_run_resumes_from_another_working_directory(
    started: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, wanted = started
    relative = config.model_copy(
        update={"setup": config.setup.model_copy(update={"input_dir": Path("in"), "output_dir": Path("out")})}
    )
    monkeypatch.chdir(tmp_path)
    create_part(relative, SilentProgress(), Part(0, 2), make_executor=InlineExecutor)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    create(config)
    assert output_digests(tmp_path / "out") == wanted


@pytest.mark.slow
def test_unread_files_in_the_input_folder_are_reported(started: Any, tmp_path: Path) -> None:
    config, _ = started
    (tmp_path / "in" / "more.json").write_text("[]")
    progress = SilentProgress()
    create_dataset(config, progress, make_executor=InlineExecutor)
    assert progress.notes == ["1 file(s) in the input folder are not read: more.json"]


@pytest.mark.slow
def test_inputs_that_differ_only_in_compression_cause_a_warning(started: Any, tmp_path: Path) -> None:
    config, _ = started
    (tmp_path / "in" / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "in" / "a.jsonl").read_bytes()))
    progress = SilentProgress()
    create_dataset(config, progress, make_executor=InlineExecutor, overwrite=True)
    assert progress.notes == [
        "warning: both a.jsonl and a.jsonl.gz are read; if they hold the same records, remove one of them"
    ]
