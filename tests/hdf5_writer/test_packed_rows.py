"""Packed datasets, from records to shards: each sample equals that of its own fixed row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
from stored_samples import stored_samples

from benchmarks.generate import phase_2_records
from hdf5_writer.run import Part, create_part, finalize
from hdf5_writer.verify import verify_dataset
from preprocess.config import ConfigError
from preprocess.tokenize.tokenizer import load_tokenizer

GOLDEN_FILES = sorted(shared_folder("golden").glob("*.jsonl"))
PACKED = {"processor__packing": "best_fit"}


def write_both(make_config: ConfigMaker, tmp_path: Path, records: list[Any], **changes: Any) -> tuple[Any, Any]:
    """Write the same records in fixed rows and packed; return the samples of both by record."""
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    found = []
    for name, more in (("fixed", {}), ("packed", PACKED)):
        create(make_config(setup__output_dir=str(tmp_path / name), **changes, **more), keep_going=True)
        assert verify_dataset(tmp_path / name).problems == []
        found.append(stored_samples(tmp_path / name))
    return found[0], found[1]


@pytest.mark.long
@needs_shared("golden")
@needs_shared("tokenizers")
@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: path.stem)
def test_each_golden_equals_the_sample_of_its_fixed_row(path: Path, make_config: ConfigMaker, tmp_path: Path) -> None:
    records = [json.loads(line)["record"] for line in path.read_text(encoding="utf-8").splitlines()]
    fixed, packed = write_both(
        make_config,
        tmp_path,
        records,
        processor__tokenizer_type=str(shared_folder("tokenizers") / "llama2-json"),
        processor__max_sequence_length=4096,
        dataset__system_prompt_style=path.name.split(".")[-2],
        dataset__check_images="none",
        dataset__image_size=336,
    )
    assert len(fixed) == len(records)
    assert packed == fixed


@pytest.mark.slow
@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.long)])
def test_each_generated_record_equals_the_sample_of_its_fixed_row(
    make_config: ConfigMaker, tmp_path: Path, count: int
) -> None:
    records = list(phase_2_records(load_tokenizer(str(QUICKSTART / "tokenizer")), count))
    fixed, packed = write_both(
        make_config, tmp_path, records, processor__max_sequence_length=4096, dataset__image_size=336
    )
    assert len(fixed) == count
    assert packed == fixed
    params = json.loads((tmp_path / "packed" / "data_params.json").read_text())
    assert (params["counts"]["written"], params["samples"], params["image_start_idx"]) == (count, count, None)
    assert params["fill"] == pytest.approx(params["tokens"]["total"] / (params["rows"] * 4096), abs=1e-6)
    assert params["fill"] >= 0.94


IMAGES = [f"shapes/{number:04d}.png" for number in range(1, 5)]


def mixed_records() -> list[dict[str, Any]]:
    """Records with two images, four images, images between texts, text only and one image, of many lengths."""
    records: list[dict[str, Any]] = []
    for number in range(60):
        answer = f"Answer {number}. " + "word " * (number * 13 % 40)
        kind = number % 5
        if kind == 0:
            conversations, images = turn_pair("<image>\n<image>\nCompare.", answer), IMAGES[:2]
        elif kind == 1:
            conversations = turn_pair("<image>\n<image>\n<image>\n<image>\nWhich?", answer)
            images = [IMAGES[0], *IMAGES[:3]]  # the same path twice
        elif kind == 2:
            conversations = turn_pair("First <image>\nthen <image>\nwhat?", answer) + turn_pair("And <image>?", answer)
            images = IMAGES[:3]
        elif kind == 3:
            conversations, images = turn_pair("Say something.", answer), []
        else:
            conversations, images = turn_pair("What is it?\n<image>", answer), IMAGES[:1]
        records.append(
            {"image": images, "conversations": conversations} if images else {"conversations": conversations}
        )
    return records


SEVERAL = {"dataset__max_images": 4, "dataset__image_size": 56, "processor__max_sequence_length": 400}


@pytest.mark.slow
@pytest.mark.parametrize("style", ["vicuna_v1", "mistral_instruct", "llava_llama_2"])
def test_packing_does_not_change_samples_of_any_kind(make_config: ConfigMaker, tmp_path: Path, style: str) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", mixed_records())
    found = {}
    for name, changes in (
        ("alone", {}),
        ("packed", PACKED),
        ("few", PACKED | {"processor__max_images_per_row": 4}),
    ):
        out = tmp_path / name
        create(
            make_config(
                setup__output_dir=str(out),
                dataset__system_prompt_style=style,
                dataset__check_images="none",
                **SEVERAL | changes,
            )
        )
        assert verify_dataset(out).problems == []
        params = json.loads((out / "data_params.json").read_text())
        found[name] = stored_samples(out), params
    samples, params = found["alone"]
    assert (params["rows"], params["samples"], params["image_start_idx"]) == (60, 60, None)
    assert params["counts"]["images"] == sum(len(record.get("image", [])) for record in mixed_records())
    assert params["counts"]["images_cut"] == params["counts"]["truncated"] == 0
    images = [sample.images for sample in samples.values()]
    assert {len(found) for found in images} == {0, 1, 2, 3, 4}
    assert all(
        ids[start : start + slots] == [params["pad_id"]] * slots
        for ids, _, _, stored in samples.values()
        for _, start, slots in stored
    )
    for name, most in (("packed", 30), ("few", 4)):
        assert found[name][0] == samples
        assert found[name][1]["rows"] < 40
        assert max(4, found[name][1]["most_images_per_row"]) <= most
    assert found["packed"][1]["most_images_per_row"] > 4 >= found["few"][1]["most_images_per_row"]


def test_hostile_records_become_a_sample_or_a_reject(make_config: ConfigMaker, tmp_path: Path) -> None:
    thousand = "".join(f"<image>\n{number} " for number in range(1000))
    records = [
        # More images than fit into the row, with an answer before those that do not fit.
        {
            "image": IMAGES,
            "conversations": turn_pair("<image>\n<image>\nA?", "Yes.") + turn_pair("<image><image>B?", "No."),
        },
        # An image whose slots would be split, with nothing supervised before it.
        {"image": IMAGES, "conversations": turn_pair("<image>\n<image>\n<image>\n<image>\nA?", "Yes.")},
        {"image": IMAGES[:1] * 1000, "conversations": turn_pair(thousand, "Many.")},
        {"image": IMAGES[:1] * 5, "conversations": turn_pair("<image>" * 5, "Five.")},
        {"image": [IMAGES[0], IMAGES[0]], "conversations": turn_pair("<image>\n<image>\nSame?", "Yes.")},
        {"conversations": turn_pair("<image>\nWhere?", "Nowhere.")},
        {"image": IMAGES[:2], "conversations": turn_pair("<image>\nOne token?", "Two images.")},
        # Longer than a row, before and after the first answer.
        {"conversations": turn_pair("word " * 400, "Late.")},
        {"conversations": turn_pair("Go on.", "word " * 400)},
    ]
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    changes = {"dataset__check_images": "none", "processor__max_sequence_length": 90, "setup__shuffle": False}
    outcome = create(make_config(**SEVERAL | PACKED | changes), keep_going=True)
    counts = outcome.params["counts"]
    assert counts["read"] == counts["written"] + counts["rejected"] == len(records)
    assert verify_dataset(tmp_path / "out").problems == []
    rejects = {
        reject["line"]: reject["reason"]
        for reject in map(json.loads, (tmp_path / "out" / "rejects.jsonl").read_text().splitlines())
    }
    assert rejects == {
        2: "nothing_supervised",
        3: "too_many_images",
        4: "too_many_images",
        6: "token_without_image",
        7: "image_without_token",
        8: "nothing_supervised",
    }
    samples = stored_samples(tmp_path / "out")
    assert [len(samples[0, line].images) for line in (1, 5, 9)] == [2, 2, 0]
    assert (counts["images"], counts["images_cut"], counts["truncated"]) == (4, 2, 2)
    assert len(samples[0, 9].ids) == 90, "a packed text-only sample has the whole row"


@pytest.mark.parametrize("free", [{"processor__packing": "best_fit"}, {"dataset__max_images": 2}])
def test_free_rows_that_hold_no_image_are_refused_unless_there_is_no_image_folder(
    make_config: ConfigMaker, tmp_path: Path, free: dict[str, Any]
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"conversations": turn_pair("Q", "A")}])
    short = make_config(**free, processor__max_sequence_length=64)
    with pytest.raises(
        ConfigError, match=r"max_sequence_length is 64, but the 64 patches .* need at least 65; .*image_dir"
    ):
        create(short)
    text_only = make_config(**free, processor__max_sequence_length=64, dataset__image_dir=None)
    assert create(text_only).params["counts"]["written"] == 1
    assert (
        create(make_config(**free, processor__max_sequence_length=65), overwrite=True).params["counts"]["written"] == 1
    )


def test_max_images_per_row_below_max_images_is_refused(make_config: ConfigMaker) -> None:
    with pytest.raises(ConfigError, match=r"max_images_per_row is 2, but dataset.max_images allows 4 in one record"):
        make_config(processor__max_images_per_row=2, **SEVERAL | PACKED)
    with pytest.raises(ConfigError, match=r"max_images_per_row is 2, but with processor.packing none a row holds one"):
        make_config(processor__max_images_per_row=2)


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [True, False])
def test_packed_bytes_do_not_depend_on_how_the_run_is_executed(
    make_config: ConfigMaker, tmp_path: Path, shuffle: bool
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", mixed_records())
    same = {"dataset__check_images": "none", "setup__samples_per_shard": 17, "setup__shuffle": shuffle}
    changes = SEVERAL | PACKED | same
    create(make_config(**changes))
    expected = output_digests(tmp_path / "out")
    assert len([name for name in expected if name.endswith(".h5")]) == 4
    config = make_config(setup__output_dir=str(tmp_path / "sliced"), **changes)
    for index in (1, 0, 2):
        create_part(config, SilentProgress(), Part(index, 3), make_executor=InlineExecutor)
    finalize(config)
    found = output_digests(tmp_path / "sliced")
    assert {name: found[name] for name in found if name.endswith(".h5")} == {
        name: expected[name] for name in expected if name.endswith(".h5")
    }
