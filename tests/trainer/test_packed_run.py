"""Runs on packed rows with any number of images: the same loss as on one sample per row, and it decreases."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import QUICKSTART, create, turn_pair, write_jsonl

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from small import IMAGES, PICTURES, logged, write_params  # noqa: E402
from small import dataset as small_dataset  # noqa: E402

from hdf5_writer.config import build_config  # noqa: E402
from loaders import create_dataloader  # noqa: E402
from trainer.run import main  # noqa: E402

LENGTH = 256
_FOLDERS = tempfile.TemporaryDirectory(prefix="llava-hdf5-packed-run-")
# The human turns of a record, and its number of images.
QUESTIONS = {
    "text-only": "Say something.",
    "one image": "<image>\nWhat is this?",
    "two images": "<image>\n<image>\nWhat differs?",
    "interleaved": "Here <image> is one and here <image> another. Which is red?",
    "four images": "<image><image><image><image>\nCount.",
}


def records(kinds: list[str]) -> list[dict[str, Any]]:
    made = []
    for number in range(8 * len(kinds)):
        question = QUESTIONS[kinds[number % len(kinds)]]
        images = [PICTURES[(number + at) % len(PICTURES)] for at in range(question.count("<image>"))]
        record: dict[str, Any] = {"conversations": turn_pair(question, f"Answer {number} " + "word " * (number % 7))}
        if images:
            record["image"] = images[0] if len(images) == 1 else images
        made.append(record)
    return made


@functools.cache
def dataset(kinds: tuple[str, ...], packing: str, images: int = 1) -> Path:
    folder = Path(_FOLDERS.name) / f"{len(kinds)}-{packing}-{images}"
    write_jsonl(folder / "in" / "records.jsonl", records(list(kinds)))
    values: dict[str, dict[str, Any]] = {
        "setup": {
            "input_dir": str(folder / "in"),
            "output_dir": str(folder / "out"),
            "processes": 1,
            "samples_per_shard": 20,
        },
        "processor": {
            "tokenizer_type": str(QUICKSTART / "tokenizer"),
            "max_sequence_length": LENGTH,
            "packing": packing,
        },
        "dataset": {
            "image_dir": str(IMAGES),
            "system_prompt_style": "vicuna_v1",
            "image_size": 56,
            "patch_size": 14,
            "max_images": images,
        },
    }
    create(build_config(values, "test", folder))
    return folder / "out"


SINGLE = ("text-only", "one image")
ALL = tuple(QUESTIONS)


def run(folder: Path, data: Path, name: str, *arguments: str, **changes: Any) -> Path:
    params = write_params(
        folder / name, train_input__data_dir=str(data), model__text_model__max_position_embeddings=LENGTH, **changes
    )
    model_dir = folder / name / "model"
    assert main(["--params", str(params), "--model_dir", str(model_dir), *arguments]) == 0
    return model_dir


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for a few steps on packed rows."""
    folder = tmp_path_factory.mktemp("packed")
    return run(folder, dataset(SINGLE, "best_fit"), "first", train_input__batch_size=2)


def evaluated(model: Path, data: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    where = run(folder, data, "eval", "--mode", "eval", "--checkpoint_path", str(model), **changes)
    found: dict[str, Any] = json.loads((where / "eval_results.json").read_bytes())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "sdpa_by_sample", "eager"])
def test_a_model_has_the_same_loss_on_packed_rows_as_on_one_sample_per_row(
    model: Path, tmp_path: Path, attention: str
) -> None:
    single = evaluated(model, dataset(SINGLE, "none"), tmp_path / "single")
    packed = evaluated(
        model, dataset(SINGLE, "best_fit"), tmp_path / "packed", model__attention=attention, train_input__trim_to=8
    )
    assert packed["rows"] < single["rows"] / 2
    assert packed["tokens"] == single["tokens"] > 100
    assert packed["loss"] == pytest.approx(single["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", pytest.param("sdpa_by_sample", marks=pytest.mark.long)])
def test_the_loss_decreases_on_packed_rows_of_text_and_one_two_and_four_images(tmp_path: Path, attention: str) -> None:
    data = dataset(ALL, "best_fit", 4)
    batch = next(iter(create_dataloader(data, IMAGES, 4, shuffle=False)))
    counts = [int((batch["image_rows"] == row).sum()) for row in range(4)]
    assert max(counts) >= 4
    assert int(batch["segment_ids"].max()) >= 3, "several samples in a row"
    losses = logged(
        run(
            tmp_path,
            data,
            "all",
            model__attention=attention,
            train_input__batch_size=4,
            train_input__micro_batch_size=2,
            optimizer__learning_rate=5e-3,
            runconfig__max_steps=30,
        ),
        "loss",
    )
    assert losses[-1] < losses[0] / 2


@pytest.mark.slow
def test_rows_of_one_sample_with_several_images_can_be_used_for_training(tmp_path: Path) -> None:
    data = dataset(ALL, "none", 4)
    model = run(tmp_path, data, "several", train_input__group_by_modality=True, runconfig__max_steps=12)
    losses = logged(model, "loss")
    assert sum(losses[-3:]) < sum(losses[:3])
    packed = evaluated(model, dataset(ALL, "best_fit", 4), tmp_path / "packed")
    single = evaluated(model, data, tmp_path / "single")
    assert packed["tokens"] == single["tokens"]
    assert packed["loss"] == pytest.approx(single["loss"], rel=1e-5)


@pytest.mark.slow
def test_micro_batches_of_packed_rows_give_the_same_losses_as_whole_batches(tmp_path: Path) -> None:
    data = dataset(SINGLE, "best_fit")
    whole = logged(run(tmp_path, data, "whole", train_input__batch_size=4), "loss")
    options = {"train_input__batch_size": 4, "train_input__micro_batch_size": 1}
    parts = logged(run(tmp_path, data, "parts", **options), "loss")
    assert parts == pytest.approx(whole, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("trained", "other"), [("best_fit", "none"), ("none", "best_fit")])
def test_evaluation_during_training_can_use_the_other_kind_of_rows(tmp_path: Path, trained: str, other: str) -> None:
    evaluated_on = dataset(SINGLE, other)
    changes: dict[str, Any] = {"runconfig__eval_steps": 2, "runconfig__max_steps": 2, "train_input__batch_size": 2}
    changes["eval_input"] = {"data_dir": str(evaluated_on)}
    model = run(tmp_path, dataset(SINGLE, trained), "both", **changes)
    (loss,) = logged(model, "eval_loss")
    assert loss == pytest.approx(evaluated(model, evaluated_on, tmp_path / "again")["loss"], rel=1e-5)


def test_evaluation_during_training_on_fixed_rows_with_another_image_position_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = write_params(tmp_path, runconfig__eval_steps=2, eval_input={"data_dir": str(small_dataset(style="plain"))})
    assert main(["--params", str(params), "--model_dir", str(tmp_path / "model")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "eval_input: its image slots begin at position 1, those of train_input at 33" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_input__group_by_modality": True}, "are packed: each holds samples with and without images"),
        ({"model__image_start_idx": 35}, "so they have no fixed image position"),
    ],
)
def test_params_that_packed_rows_do_not_support_are_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    params = write_params(
        tmp_path,
        train_input__data_dir=str(dataset(SINGLE, "best_fit")),
        model__text_model__max_position_embeddings=LENGTH,
        **changes,
    )
    assert main(["--params", str(params), "--model_dir", str(tmp_path / "model")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
