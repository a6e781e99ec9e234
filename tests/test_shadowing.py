"""A file of the user's that bears the name of one of our packages is named, instead of a puzzling ImportError."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stranger", "imported"),
    [
        ("preprocess.py", "hdf5_writer"),
        ("preprocess/__init__.py", "hdf5_writer.run"),
        ("preprocess/mine.py", "hdf5_writer"),
        ("hdf5_writer.py", "loaders"),
        pytest.param("loaders.py", "trainer.run", marks=pytest.mark.long),
    ],
)
def test_a_stranger_with_our_name_is_named_in_one_sentence(tmp_path: Path, stranger: str, imported: str) -> None:
    if imported != "hdf5_writer":
        pytest.importorskip("torch")
    (tmp_path / stranger).parent.mkdir(exist_ok=True)
    (tmp_path / stranger).touch()
    (tmp_path / "script.py").write_text(f"import {imported}\n")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, *options, "script.py"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    name = stranger.removesuffix(".py").split("/")[0]
    if stranger != "preprocess/mine.py":  # a folder without __init__.py does not come first
        said = run().stderr.splitlines()[-1]
        assert f"needs its own package {name} ({CHECKOUT / name / '__init__.py'}), but Python finds {tmp_path}" in said
    if sys.version_info >= (3, 11):
        assert run("-P").returncode == 0
