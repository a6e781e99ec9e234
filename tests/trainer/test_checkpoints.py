"""Damage to the files of a run is detected before they are used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from safetensors.torch import load_file  # noqa: E402
from small import write_params  # noqa: E402

from trainer.checkpoints import DamagedError, check, complete_checkpoints, newest_undamaged  # noqa: E402
from trainer.run import main  # noqa: E402

pytestmark = pytest.mark.slow


def run(params: Path, model_dir: Path, *arguments: str) -> int:
    return main(["--params", str(params), "--model_dir", str(model_dir), *arguments])


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Params, and the folder of a run of four steps with a checkpoint after every second step."""
    folder = tmp_path_factory.mktemp("trained")
    params = write_params(folder, runconfig__checkpoint_steps=2)
    assert run(params, folder / "model") == 0
    return params, folder / "model"


@pytest.fixture
def copied(trained: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(trained[1], tmp_path / "model")
    return trained[0], tmp_path / "model"


@pytest.mark.parametrize(
    ("damage", "message"),
    [(remove, "is missing"), (cut, "bytes, expected"), (flip_a_bit, "does not match its checksum")],
)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json"]
)
def test_any_damage_to_a_file_of_a_checkpoint_is_detected(
    copied: tuple[Path, Path], name: str, damage: Callable[[Path], None], message: str
) -> None:
    _, model_dir = copied
    damage(model_dir / "checkpoint-4" / name)
    newest, damages = newest_undamaged(model_dir)
    assert newest == model_dir / "checkpoint-2"
    assert len(damages) == 1
    assert f"checkpoint-4/{name} " in damages[0]
    assert message in damages[0]


def test_every_file_of_a_checkpoint_is_listed(trained: tuple[Path, Path]) -> None:
    checkpoint = trained[1] / "checkpoint-4"
    listed = json.loads((checkpoint / "loader_state.json").read_bytes())["files"]
    assert {path.name for path in checkpoint.iterdir()} - {"loader_state.json"} == set(listed)


def test_damage_to_the_list_of_files_is_detected(copied: tuple[Path, Path]) -> None:
    _, model_dir = copied
    flip_a_bit(model_dir / "checkpoint-4" / "loader_state.json")
    newest, damages = newest_undamaged(model_dir)
    assert newest == model_dir / "checkpoint-2"
    assert "loader_state.json does not match its checksum" in damages[0]


def test_a_run_resumes_from_the_newest_undamaged_checkpoint_and_ends_with_the_same_weights(
    trained: tuple[Path, Path], copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """With one checkpoint kept, the damaged one must not count as the newest."""
    params, model_dir = copied
    (model_dir / "finished.json").unlink()
    flip_a_bit(model_dir / "checkpoint-4" / "optimizer.pt")
    assert run(params, model_dir, "runconfig.checkpoint_steps=3", "runconfig.keep_checkpoints=1") == 0
    printed = capsys.readouterr()
    assert "checkpoint-4/optimizer.pt does not match its checksum; " in printed.err
    assert "checkpoint-2 is used instead" in printed.err
    assert "2 of 4 done" in printed.out
    assert [path.name for path in complete_checkpoints(model_dir)] == ["checkpoint-4"]
    check(model_dir / "checkpoint-4")
    expected, weights = (load_file(folder / "model.safetensors") for folder in (trained[1], model_dir))
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], atol=1e-6, rtol=0, msg=name)


def test_a_run_without_an_undamaged_checkpoint_is_refused(
    copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    params, model_dir = copied
    (model_dir / "finished.json").unlink()
    cut(model_dir / "checkpoint-4" / "rng_state.pth")
    remove(model_dir / "checkpoint-2" / "model.safetensors")
    before = sorted(model_dir.rglob("*"))
    for _ in range(2):
        assert run(params, model_dir) == 2
        stderr = capsys.readouterr().err
        assert "has no undamaged checkpoint: " in stderr
        assert "checkpoint-4/rng_state.pth has" in stderr
        assert "checkpoint-2/model.safetensors is missing" in stderr
        assert stderr.count("\n") == 1
    assert sorted(model_dir.rglob("*")) == before


@pytest.mark.parametrize("damage", [remove, flip_a_bit])
def test_a_damaged_finished_model_is_saved_again_from_the_last_checkpoint(
    trained: tuple[Path, Path],
    copied: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    params, model_dir = copied
    damage(model_dir / "model.safetensors")
    assert run(params, model_dir) == 0
    printed = capsys.readouterr()
    assert "model.safetensors " in printed.err
    assert "the model is saved again from" in printed.err
    assert (model_dir / "model.safetensors").read_bytes() == (trained[1] / "model.safetensors").read_bytes()
    assert run(params, model_dir) == 0
    assert capsys.readouterr().err == ""


def test_a_damaged_finished_model_without_checkpoints_is_refused(
    copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    params, model_dir = copied
    for checkpoint in complete_checkpoints(model_dir):
        shutil.rmtree(checkpoint)
    remove(model_dir / "model.safetensors")
    assert run(params, model_dir) == 2
    assert "has no checkpoint to save it from again" in capsys.readouterr().err


def test_damaged_weights_are_neither_evaluated_nor_used_for_training(
    copied: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params, model_dir = copied
    flip_a_bit(model_dir / "model.safetensors")
    flip_a_bit(model_dir / "checkpoint-2" / "model.safetensors")
    for arguments in (
        ["--mode", "eval"],
        ["--mode", "eval", "--checkpoint_path", str(model_dir)],
        ["--checkpoint_path", str(model_dir / "checkpoint-2")],
        ["--checkpoint_path", str(model_dir / "checkpoint-2"), "runconfig.load_checkpoint_states=all"],
    ):
        folder = model_dir if arguments[-1] == "eval" else tmp_path / "new"
        assert run(params, folder, *arguments) == 2
        stderr = capsys.readouterr().err
        assert "model.safetensors does not match its checksum; restore the file" in stderr
    assert not (tmp_path / "new").exists()


def test_a_folder_without_a_list_of_checksums_is_accepted(tmp_path: Path) -> None:
    check(tmp_path)
    (tmp_path / "finished.json").write_text("{}")
    with pytest.raises(DamagedError, match=r"finished\.json does not match its checksum"):
        check(tmp_path)
