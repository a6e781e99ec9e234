"""A user's file with the name of one of our packages is named in the error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "imported"),
    [
        ("preprocess.py", "hdf5_writer"),
        ("preprocess/__init__.py", "hdf5_writer.run"),
        ("preprocess/mine.py", "hdf5_writer"),
        ("hdf5_writer.py", "loaders"),
        pytest.param("loaders.py", "trainer.run", marks=pytest.mark.long),
    ],
)
def test_another_package_of_the_same_name_is_reported_in_one_line(tmp_path: Path, other: str, imported: str) -> None:
    if imported != "hdf5_writer":
        pytest.importorskip("torch")
    (tmp_path / other).parent.mkdir(exist_ok=True)
    (tmp_path / other).touch()
    (tmp_path / "script.py").write_text(f"import {imported}\n")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        command = [sys.executable, *options, "script.py"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    name = other.removesuffix(".py").split("/")[0]
    if other != "preprocess/mine.py":  # a folder without __init__.py has lower precedence
        stderr = run().stderr.splitlines()[-1]
        assert (
            f"needs its own package {name} ({CHECKOUT / name / '__init__.py'}), but Python finds {tmp_path}" in stderr
        )
    if sys.version_info >= (3, 11):
        assert run("-P").returncode == 0
