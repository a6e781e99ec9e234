"""Runs of the command: their files, kills, several processes, evaluation, and wrong input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from conftest import CHECKOUT  # noqa: E402
from recorded_run import recorded  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from small import IMAGES, dataset, logged, run_python, write_params  # noqa: E402

from loaders import create_dataloader  # noqa: E402
from trainer.batch_stream import BatchStream  # noqa: E402
from trainer.build import load_checkpoint  # noqa: E402
from trainer.checkpoints import complete_checkpoints  # noqa: E402
from trainer.data import read_row_shape  # noqa: E402
from trainer.params_file import load_params  # noqa: E402
from trainer.run import main  # noqa: E402

pytestmark = pytest.mark.slow


def run(params: Path, model_dir: Path, *arguments: str) -> int:
    return main(["--params", str(params), "--model_dir", str(model_dir), *arguments])


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=tolerance, rtol=0, msg=name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Params, and the folder of a run of four steps of four rows."""
    folder = tmp_path_factory.mktemp("trained")
    params = write_params(folder, runconfig__checkpoint_steps=2)
    assert run(params, folder / "model") == 0
    return params, folder / "model"


def test_a_run_logs_the_loss_the_epoch_and_the_share_of_time_spent_waiting_for_data(trained: tuple[Path, Path]) -> None:
    _, model_dir = trained
    assert len(logged(model_dir, "loss")) == 4
    shares = logged(model_dir, "data_wait")
    assert len(shares) == 4
    assert all(0 < share < 1 for share in shares)
    assert logged(model_dir, "epoch")[:4] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6]), "24 rows, 4 in a step"


def test_frozen_weights_stay_unchanged_and_all_others_change(trained: tuple[Path, Path]) -> None:
    _, model_dir = trained
    early, late = weights(model_dir / "checkpoint-2"), weights(model_dir)
    for name in early:
        assert torch.equal(early[name], late[name]) == name.startswith("vision_tower."), name


def test_the_first_loss_is_the_cross_entropy_of_the_untrained_model(trained: tuple[Path, Path], tmp_path: Path) -> None:
    params, model_dir = trained
    assert run(write_params(tmp_path, runconfig__max_steps=1, optimizer__warmup_ratio=1.0), tmp_path / "model") == 0
    # A warm-up of one step begins with a learning rate of 0, so the untrained model is saved.
    loaded = load_params(str(params))
    model = load_checkpoint(str(tmp_path / "model"), loaded.model, read_row_shape(loaded, [str(dataset())]))
    batch = next(iter(create_dataloader(dataset(), IMAGES, 4, image_dtype=torch.float32)))
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("text_input_ids", "key_padding_mask", "image_data", "has_image")}
        scores = torch.log_softmax(model(**inputs).logits.double(), dim=-1)
    chosen = scores.gather(2, batch["labels"].long()[..., None])[..., 0]
    expected = -(chosen * batch["loss_mask"]).sum() / batch["loss_mask"].sum()
    assert logged(model_dir, "loss")[0] == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("micro", [1, 2])
def test_micro_batches_give_the_same_weights_as_the_whole_batch(
    trained: tuple[Path, Path], tmp_path: Path, micro: int
) -> None:
    """Rows have different numbers of labels, so the mean of the means of micro-batches would be another gradient."""
    _, model_dir = trained
    params = write_params(tmp_path, train_input__micro_batch_size=micro)
    assert run(params, tmp_path / "model") == 0
    assert logged(tmp_path / "model", "loss") == pytest.approx(logged(model_dir, "loss"), abs=1e-4)
    assert_close(tmp_path / "model", model_dir, 2e-4)


@pytest.mark.long
def test_two_processes_give_the_same_weights_as_one(trained: tuple[Path, Path], tmp_path: Path) -> None:
    params, model_dir = trained
    done = run_python(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "trainer.run"),
        *("--params", str(params), "--model_dir", str(tmp_path / "model")),
    )
    assert done.returncode == 0, done.stderr
    assert logged(tmp_path / "model", "loss") == pytest.approx(logged(model_dir, "loss"), abs=1e-4)
    assert_close(tmp_path / "model", model_dir, 2e-4)
    assert done.stdout.count("starts from") == 1, "only one process prints"


def test_trimming_gives_the_same_weights(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, model_dir = trained
    params = write_params(tmp_path, train_input__trim_to=8, train_input__micro_batch_size=2)
    assert run(params, tmp_path / "model") == 0
    assert_close(tmp_path / "model", model_dir, 2e-4)


@pytest.mark.faults
def test_a_killed_and_resumed_run_sees_the_same_batches_and_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight steps in epochs of six; a checkpoint after every second step; killed in the second half of step 5."""
    params = write_params(
        tmp_path,
        train_input__micro_batch_size=2,
        train_input__num_workers=1,
        runconfig__max_steps=8,
        runconfig__checkpoint_steps=2,
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def recorded_run(model_dir: Path) -> list[str]:
        seen: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(BatchStream, "__iter__", recorded(seen.append))
            assert run(params, model_dir) == 0
        return seen

    expected = recorded_run(whole)
    assert len(expected) == 16
    assert len(set(expected[:12])) == 12, "all batches of the epoch are different"
    killed = run_python(
        *(str(CHECKOUT / "tests" / "tools" / "recorded_run.py"), str(tmp_path / "log"), "10"),
        *("--params", str(params), "--model_dir", str(broken)),
    )
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "log").read_text().split() == expected[:10]
    assert [path.name for path in complete_checkpoints(broken)] == ["checkpoint-2", "checkpoint-4"]
    assert recorded_run(broken) == expected[8:], "two micro-batches per step: it resumes at the fifth step"
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(broken)[name]), name
    assert logged(broken, "loss") == logged(whole, "loss")


def test_a_finished_run_is_not_trained_again(trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    params, model_dir = trained
    before = {path: path.read_bytes() for path in model_dir.rglob("*") if path.is_file()}
    assert run(params, model_dir) == 0
    stdout = capsys.readouterr().out
    assert "4 of 4 done" in stdout
    assert "loss" not in stdout
    assert {path: path.read_bytes() for path in model_dir.rglob("*") if path.is_file()} == before


def test_a_run_killed_after_its_last_checkpoint_only_saves_its_model(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    params, model_dir = trained
    shutil.copytree(model_dir / "checkpoint-4", tmp_path / "model" / "checkpoint-4")
    assert run(params, tmp_path / "model") == 0
    assert_close(tmp_path / "model", model_dir, 0.0)
    assert len(logged(tmp_path / "model", "loss")) == 4


@pytest.mark.faults
def test_an_incomplete_checkpoint_of_a_killed_run_is_not_used(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params, model_dir = trained
    shutil.copytree(model_dir, tmp_path / "model")
    (tmp_path / "model" / "finished.json").unlink()
    (tmp_path / "model" / "checkpoint-4" / "loader_state.json").unlink()
    (tmp_path / "model" / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
    assert run(params, tmp_path / "model") == 0
    assert "checkpoint-2" in capsys.readouterr().out
    assert [path.name for path in complete_checkpoints(tmp_path / "model")] == ["checkpoint-2", "checkpoint-4"]
    assert_close(tmp_path / "model", model_dir, 1e-6)


def test_load_checkpoint_states_model_loads_only_weights_and_all_resumes_the_run(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    _, model_dir = trained
    checkpoint = str(model_dir / "checkpoint-2")
    params = write_params(tmp_path, runconfig__load_checkpoint_states="all")
    assert run(params, tmp_path / "all", "--checkpoint_path", checkpoint) == 0
    assert_close(tmp_path / "all", model_dir, 1e-6)
    params = write_params(tmp_path, runconfig__load_checkpoint_states="model", runconfig__max_steps=1)
    assert run(params, tmp_path / "model", "--checkpoint_path", checkpoint) == 0
    assert len(logged(tmp_path / "model", "loss")) == 1, "it begins with step 1"


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    params = write_params(tmp_path, runconfig__checkpoint_steps=1, runconfig__keep_checkpoints=2)
    assert run(params, tmp_path / "model") == 0
    assert sorted(path.name for path in (tmp_path / "model").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_evaluation_gives_the_cross_entropy_of_all_rows_and_is_repeatable(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    params, model_dir = trained
    results = []
    for _ in range(2):
        # 24 rows in batches of 5: the last batch is filled with rows that must not count.
        assert run(params, model_dir, "--mode", "eval", "train_input.micro_batch_size=5") == 0
        results.append(json.loads((model_dir / "eval_results.json").read_bytes()))
    assert results[0] == results[1]
    loaded = load_params(str(params))
    model = load_checkpoint(str(model_dir), loaded.model, read_row_shape(loaded, [str(dataset())]))
    total = labels = 0.0
    for batch in create_dataloader(dataset(), IMAGES, 1, shuffle=False, image_dtype=torch.float32):
        with torch.no_grad():
            count = batch["loss_mask"].sum().item()
            total += model(**batch).loss.item() * count
            labels += count
    assert results[0]["loss"] == pytest.approx(total / labels, abs=1e-5)
    assert results[0]["perplexity"] == pytest.approx(torch.tensor(total / labels).exp().item(), rel=1e-4)
    assert (results[0]["tokens"], results[0]["rows"]) == (labels, 24)
    assert f"loss         {results[0]['loss']}" in capsys.readouterr().out


def test_evaluation_during_training_uses_the_rows_of_eval_input(tmp_path: Path) -> None:
    other = dataset(rows=5, salt="b")
    params = write_params(tmp_path, eval_input__data_dir=str(other), runconfig__eval_steps=2)
    assert run(params, tmp_path / "model") == 0
    losses = logged(tmp_path / "model", "eval_loss")
    assert len(losses) == 2
    assert run(params, tmp_path / "model", "--mode", "eval") == 0
    result = json.loads((tmp_path / "model" / "eval_results.json").read_bytes())
    assert result["loss"] == pytest.approx(losses[-1], abs=1e-6)
    assert (result["rows"], result["data_dir"]) == (5, [str(other)])


def test_a_loss_of_nan_ends_the_run_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = write_params(tmp_path, optimizer__learning_rate=1e30, optimizer__warmup_ratio=0.0)
    assert run(params, tmp_path / "model") == 1
    stderr = capsys.readouterr().err
    assert "the loss is nan at step 2" in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train_input.batch_size=100"], "24 rows do not fill one global batch of 100"),
        (["train_input.micro_batch_size=3"], "train_input.micro_batch_size is 3, expected a divisor of 4"),
        (["train_input.data_dir=/no/such"], "/no/such: no such folder"),
        (["train_input.img_data_dir=/no/such"], "img_data_dir /no/such: no such folder"),
        (["model.freeze=['vison']"], "'vison' matches no parameter name"),
        (["--checkpoint_path", "/no/such"], "--checkpoint_path /no/such: no such folder"),
        (["--mode", "eval"], "has no model to evaluate; give --checkpoint_path"),
        (["runconfig.training_arguments={max_steps: 4}"], "max_steps: is set by runconfig.max_steps; remove it here"),
        (["runconfig.training_arguments={deepseed: a}"], "training_arguments.deepseed (did you mean deepspeed?)"),
    ],
)
def test_wrong_params_or_arguments_are_one_sentence_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(write_params(tmp_path), tmp_path / "model", *arguments) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert stderr.startswith("trainer.run: ")
    assert stderr.count("\n") == 1
    assert not list(tmp_path.glob("model/checkpoint-*"))


def test_a_file_as_model_dir_is_one_sentence_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").write_text("")
    assert run(write_params(tmp_path), tmp_path / "model") == 2
    expected = f"trainer.run: --model_dir {tmp_path / 'model'}: is a file, expected a folder; give another name\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.learning_rate=1e-4"], "with optimizer.learning_rate 0.001, but the params have 0.0001"),
        (["train_input.shuffle_seed=1"], "was saved with another train_input.shuffle_seed (0, now 1)"),
        (
            ["train_input.batch_size=8"],
            "batch_size (4, now 8); restore it to resume, or give another --model_dir to start a new run",
        ),
    ],
)
def test_a_run_with_other_params_is_refused_in_the_same_folder(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    params, model_dir = trained
    before = weights(model_dir)
    assert run(params, model_dir, "runconfig.max_steps=6", *arguments) == 2
    assert message in capsys.readouterr().err
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(model_dir).items())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_image_ends_the_run_with_its_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    shutil.copytree(IMAGES, tmp_path / "images")
    for path in (tmp_path / "images" / "charts").iterdir():
        path.unlink()
    params = write_params(
        tmp_path, train_input__img_data_dir=str(tmp_path / "images"), train_input__num_workers=workers
    )
    assert run(params, tmp_path / "model") == 1
    stderr = capsys.readouterr().err.splitlines()[-1]
    assert stderr.startswith("trainer.run: records.jsonl, line ")
    assert ": image charts/" in stderr


@pytest.mark.long
def test_gradient_checkpointing_gives_the_same_weights(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, model_dir = trained
    assert run(write_params(tmp_path, runconfig__gradient_checkpointing=True), tmp_path / "model") == 0
    assert_close(tmp_path / "model", model_dir, 2e-4)


@pytest.mark.long
def test_the_options_of_the_phase_2_files_work_together(tmp_path: Path) -> None:
    """16 rows with an image, 8 without, 5 in a batch of one kind: 4 and 2 steps, the last filled with repeated rows."""
    params = write_params(
        tmp_path,
        train_input__batch_size=5,
        train_input__micro_batch_size=1,
        train_input__image_aspect_ratio="pad",
        train_input__group_by_modality=True,
        train_input__drop_last=False,
        train_input__trim_to=64,
        runconfig__max_steps=None,
        runconfig__num_epochs=1,
        runconfig__precision="bf16",
        runconfig__gradient_checkpointing=True,
    )
    assert run(params, tmp_path / "model") == 0
    losses = logged(tmp_path / "model", "loss")
    assert len(losses) == 6
    assert all(6 < loss < 9 for loss in losses), "log 1856 is 7.5"
