"""A lack of memory is one sentence that names the keys to lower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")

from small import write_params  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from trainer.memory import describe_memory_error  # noqa: E402
from trainer.model import LlavaForRows  # noqa: E402
from trainer.run import main  # noqa: E402

MORE_THAN_ANY_MACHINE_HAS = 2**50


def fill_tensor(*_: object, **__: object) -> None:
    torch.empty(MORE_THAN_ANY_MACHINE_HAS)


def fill_array(*_: object, **__: object) -> None:
    np.empty(MORE_THAN_ANY_MACHINE_HAS)


def fill_bytes(*_: object, **__: object) -> None:
    bytearray(MORE_THAN_ANY_MACHINE_HAS)


class Filling(Dataset[None]):
    def __init__(self, fill: Callable[[], None]) -> None:
        self.fill = fill

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> None:
        self.fill()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("fill", "detail"),
    [(fill_tensor, "DefaultCPUAllocator: "), (fill_array, "Unable to allocate "), (fill_bytes, "MemoryError")],
)
def test_a_full_cpu_memory_is_recognized_in_the_process_and_in_its_workers(
    fill: Callable[[], None], detail: str, workers: int
) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        next(iter(DataLoader(Filling(fill), num_workers=workers)))
    message = describe_memory_error(raised.value)
    assert message is not None
    assert message.startswith(f"CPU memory is full ({detail}")
    assert "lower train_input.micro_batch_size " in message
    assert "\n" not in message


def test_a_full_gpu_memory_is_recognized() -> None:
    message = describe_memory_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert message is not None
    assert message.startswith("CUDA out of memory. Tried to allocate 2.00 GiB; lower train_input.micro_batch_size ")


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert describe_memory_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 4x3)")) is None


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("fill", [fill_tensor, fill_bytes])
def test_a_run_without_enough_cpu_memory_ends_with_one_sentence_and_exit_code_1(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fill: Callable[..., None],
    mode: str,
) -> None:
    arguments = [
        "--params",
        str(write_params(tmp_path, runconfig__max_steps=1)),
        "--model_dir",
        str(tmp_path / "model"),
    ]
    if mode == "eval":
        assert main(arguments) == 0
        capsys.readouterr()
    monkeypatch.setattr(LlavaForRows, "forward", fill)
    assert main([*arguments, "--mode", mode]) == 1
    stderr = capsys.readouterr().err.splitlines()
    assert stderr[-1].startswith("trainer.run: CPU memory is full (")
    assert "Traceback" not in "".join(stderr)
