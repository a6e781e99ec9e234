"""The wheel, installed into a new environment outside the checkout, runs the example."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import CHECKOUT

pytestmark = pytest.mark.packaging


def run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, CHECKOUT, cwd=folder)
    return next(folder.glob("*.whl"))


def test_the_wheel_contains_exactly_the_shipped_files(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"preprocess", "hdf5_writer", "loaders", "trainer"}
    for name in (
        "preprocess/configs/quickstart.yaml",
        "preprocess/configs/llava_phase_1_preproc.yaml",
        "preprocess/configs/quickstart/tokenizer/tokenizer.json",
        "preprocess/configs/instructions/conversation.yaml",
        "preprocess/configs/quickstart/phase_2/conversations.jsonl",
        "preprocess/converters/__init__.py",
    ):
        assert name in names
    assert sum(name.endswith(".png") for name in names) >= 32
    metadata = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert not any(line.startswith("Requires-Dist: torch") and "extra" not in line for line in metadata.splitlines())
    for package in ("protobuf", "accelerate"):  # transformers reads a tokenizer.model with protobuf
        assert any(line.startswith(f"Requires-Dist: {package}") and "train" in line for line in metadata.splitlines())


def test_a_new_environment_runs_the_example(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    scripts = tmp_path / "env" / "bin"
    run(scripts / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    output = run(scripts / "create_hdf5_dataset.py", "--config", "quickstart.yaml", cwd=tmp_path)
    assert "image_start_idx" in output
    assert "every check passed" in run(scripts / "verify_hdf5_dataset.py", "quickstart_output", cwd=tmp_path)
    where = run(scripts / "python", "-c", "import hdf5_writer; print(hdf5_writer.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path))
