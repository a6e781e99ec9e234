"""The format of each input is detected during planning, stored in the plan and printed."""

from __future__ import annotations

import dataclasses
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
from conftest import ConfigMaker, create, needs_shared, shared_folder, turn_pair, write_jsonl

from hdf5_writer import create_hdf5_dataset
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.plan import read_plan
from hdf5_writer.verify import verify_dataset
from preprocess.preprocess_dataset import convert_json2jsonl_main
from preprocess.record_formats import MAX_INSPECTED

IMAGE = "shapes/0001.png"
LLAVA = {"image": IMAGE, "conversations": turn_pair("<image>\nQ", "A")}
SHAREGPT = {"conversations": [{"from": "user", "value": "Q"}, {"from": "assistant", "value": "A"}]}
MESSAGES = {
    "messages": [
        {"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "Q"}]},
        {"role": "assistant", "content": "A"},
    ]
}


def write_mixed(folder: Path) -> None:
    write_jsonl(folder / "a.jsonl", [LLAVA] * 3)
    write_jsonl(folder / "b.jsonl", [SHAREGPT] * 2)
    with gzip.open(folder / "c.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps(record) + "\n" for record in [MESSAGES] * 4))
    write_jsonl(folder / "d.jsonl", [{"messages": []}, [1], MESSAGES, LLAVA])


def formats_of(params: dict[str, Any]) -> dict[str, str]:
    return {file["path"]: file["record_format"] for file in params["inputs"]}


def test_a_folder_may_contain_files_of_several_formats(make_config: ConfigMaker, tmp_path: Path) -> None:
    write_mixed(tmp_path / "in")
    params = create(make_config()).params
    assert formats_of(params) == {
        "a.jsonl": "llava",
        "b.jsonl": "sharegpt",
        "c.jsonl.gz": "messages",
        "d.jsonl": "llava",
    }
    assert params["counts"]["written"] == 10
    assert params["counts"]["rejected_by_reason"] == {"no_turns": 2, "not_an_object": 1}
    assert verify_dataset(tmp_path / "out").problems == []


def test_the_same_conversation_gives_the_same_row_in_every_format(make_config: ConfigMaker, tmp_path: Path) -> None:
    roles = {"human": "user", "gpt": "assistant"}
    sharegpt = [{**turn, "from": roles[turn["from"]]} for turn in LLAVA["conversations"]]
    messages = [{"role": turn["from"], "content": turn["value"]} for turn in sharegpt]
    for number, record in enumerate(
        [LLAVA, {"image": IMAGE, "conversations": sharegpt}, {"images": [IMAGE], "messages": messages}, MESSAGES]
    ):
        write_jsonl(tmp_path / "in" / f"{number}.jsonl", [record])
    params = create(make_config(setup__shuffle=False)).params
    assert list(formats_of(params).values()) == ["llava", "sharegpt", "messages", "messages"]
    with h5py.File(OutputLayout(tmp_path / "out").shard(0, 1), "r") as file:
        ids, loss = file["text_input_ids"][:], file["loss_mask"][:]
    assert len(ids) == 4
    assert (ids == ids[0]).all()
    assert (loss == loss[0]).all()
    assert loss[0].any()


@needs_shared("conversations")
@needs_shared("images")
@pytest.mark.parametrize("packing", ["none", "best_fit"])
def test_the_llamafactory_demo_becomes_rows_without_further_keys(
    make_config: ConfigMaker, tmp_path: Path, packing: str
) -> None:
    """hiyouga/LLaMA-Factory, data/mllm_demo.json: an array of messages, two of which have two images."""
    (tmp_path / "json").mkdir()
    shutil.copy(shared_folder("conversations") / "llamafactory_mllm_demo.json", tmp_path / "json")
    assert convert_json2jsonl_main(["--input_dir", str(tmp_path / "json"), "--output_dir", str(tmp_path / "in")]) == 0
    images = str(shared_folder("images") / "llamafactory")
    config = make_config(
        dataset__image_dir=images,
        dataset__check_images="decode",
        dataset__max_images=2,
        processor__packing=packing,
        processor__max_sequence_length=1024,
        setup__shuffle=False,
    )
    params = create(config).params
    assert (params["counts"]["written"], params["counts"]["images"], params["counts"]["rejected"]) == (6, 8, 0)
    assert formats_of(params) == {"llamafactory_mllm_demo.jsonl": "messages"}
    assert verify_dataset(tmp_path / "out").problems == []
    with h5py.File(OutputLayout(tmp_path / "out").shard(0, 1), "r") as file:
        places = [path.decode()[-5:] for path in file["images/path"][:]]
    if packing == "none":
        assert places == ["1.jpg", "1.jpg", "2.jpg", "3.jpg"] * 2
    assert sorted(places) == ["1.jpg"] * 4 + ["2.jpg"] * 2 + ["3.jpg"] * 2


def test_different_numbers_of_image_tokens_and_images_are_rejected(make_config: ConfigMaker, tmp_path: Path) -> None:
    two = {"images": [IMAGE, IMAGE]}
    records = {
        "image_without_token": {**two, "conversations": turn_pair("<image>", "A")},
        "token_without_image": {**two, "conversations": turn_pair("<image>" * 3, "A")},
        "token_outside_human_turn": {**two, "conversations": turn_pair("<image>", "<image>")},
        "too_many_images": {"images": [IMAGE] * 3, "conversations": turn_pair("<image>" * 3, "A")},
        "images_named_twice": {**two, "image": IMAGE, "conversations": turn_pair("<image>" * 2, "A")},
        "image_missing": {"images": [IMAGE, "gone.png"], "conversations": turn_pair("<image>" * 2, "A")},
        "image_not_local": {
            "images": [IMAGE, "data:image/png;base64,"],
            "conversations": turn_pair("<image>" * 2, "A"),
        },
        "no_turns": {"messages": [{"role": "user", "content": "Q"}]},
    }
    good = {**two, "conversations": turn_pair("<image><image>", "A")}
    write_jsonl(tmp_path / "in" / "a.jsonl", [good, *records.values()])
    create(make_config(dataset__max_images=2))
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == list(enumerate(records, start=2))


def test_the_plan_keeps_the_format_and_its_digest_depends_on_it(make_config: ConfigMaker, tmp_path: Path) -> None:
    write_mixed(tmp_path / "in")
    create(make_config())
    plan = read_plan(OutputLayout(tmp_path / "out"))
    assert [file.record_format for file in plan.inputs] == ["llava", "sharegpt", "messages", "llava"]
    others = [dataclasses.replace(file, record_format="llava") for file in plan.inputs]
    assert dataclasses.replace(plan, inputs=tuple(others)).digest != plan.digest
    assert create(make_config()).already_done


def test_only_the_first_records_determine_the_format(make_config: ConfigMaker, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [LLAVA] * MAX_INSPECTED + [SHAREGPT])
    write_jsonl(tmp_path / "in" / "b.jsonl", [LLAVA] * (MAX_INSPECTED - 1) + [SHAREGPT])
    params = create(make_config()).params
    assert formats_of(params) == {"a.jsonl": "llava", "b.jsonl": "sharegpt"}
    assert params["counts"]["rejected_by_reason"] == {"unknown_role": 1}


def test_records_of_megabytes_are_ignored_in_format_detection(make_config: ConfigMaker, tmp_path: Path) -> None:
    """The planning process does not parse them, since only the memory of workers is bounded."""
    long = {"conversations": [SHAREGPT["conversations"][0], {"from": "assistant", "value": "A " * 600_000}]}
    write_jsonl(tmp_path / "in" / "a.jsonl", [long, LLAVA])
    params = create(make_config()).params
    assert formats_of(params) == {"a.jsonl": "llava"}
    assert params["counts"]["rejected_by_reason"] == {"unknown_role": 1}


def test_the_config_can_set_the_format(make_config: ConfigMaker, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [SHAREGPT, {"system": "S", **LLAVA}])
    params = create(make_config(dataset__record_format="llava")).params
    assert formats_of(params) == {"a.jsonl": "llava"}
    assert params["counts"]["rejected_by_reason"] == {"unknown_role": 1}
    assert params["counts"]["unused_keys"] == {"system": 1}


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
def test_the_command_and_its_dry_run_print_the_format(
    make_config: ConfigMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mixed(tmp_path / "in")
    arguments = [
        *("--config", "quickstart.yaml", f"setup.input_dir={tmp_path / 'in'}", f"setup.output_dir={tmp_path / 'out'}"),
        *("setup.processes=1", "setup.max_reject_fraction=1"),
    ]
    assert create_hdf5_dataset.main([*arguments, "--dry-run"]) == 0
    stdout = capsys.readouterr().out
    assert f"  a.jsonl ({(tmp_path / 'in' / 'a.jsonl').stat().st_size} bytes, llava)" in stdout
    assert "bytes, sharegpt)" in stdout
    assert create_hdf5_dataset.main(arguments) == 0
    assert "4 input file(s) (2 llava, 1 messages, 1 sharegpt), 13 records" in capsys.readouterr().err
