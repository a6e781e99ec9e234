"""The commands and the training loop of docs/images.md run in order, and training needs no image files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT

pytest.importorskip("pyarrow", reason="docs/images.md begins with Parquet: pip install 'llava-hdf5[parquet]'")
pytest.importorskip("torch", reason="docs/images.md ends with training: pip install 'llava-hdf5[torch]'")

PAGE = (CHECKOUT / "docs" / "images.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.long
def test_a_published_dataset_is_trained_on_without_its_images(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(CHECKOUT / "configs")
    folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": os.pathsep.join([folder, os.environ["PATH"]]), "PYTHONPATH": str(CHECKOUT)}
    (commands,), (program,) = blocks("bash"), blocks("python")
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 read = 40 written + 0 rejected, 40 images" in done.stdout
    assert "every check passed" in done.stdout
    for name in ("published", "data/jsonl", "data/images"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "configs").unlink()
    trained = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert trained.returncode == 0, trained.stderr
    losses = [float(line.split()[1]) for line in trained.stdout.splitlines()]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
