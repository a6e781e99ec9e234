"""`--dry-run` checks the output folder as a run would, and changes nothing there."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ConfigMaker, create, turn_pair, write_jsonl

from hdf5_writer.dry_run import describe_plan
from preprocess.config import ConfigError


def test_a_dry_run_checks_the_output_folder(tmp_path: Path, make_config: ConfigMaker) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"conversations": turn_pair("Q?", "A.")}])
    (tmp_path / "file").write_text("mine")
    for name in (tmp_path / "file", tmp_path / "file" / "x", Path("/proc/x")):
        with pytest.raises(ConfigError, match=f"setup.output_dir {name}: cannot be created or written"):
            describe_plan(make_config(setup__output_dir=str(name)), None)
    assert "warning" not in describe_plan(make_config(), None)
    assert not (tmp_path / "out").exists()
    create(make_config())
    before = sorted(tmp_path.rglob("*"))
    assert "warning" not in describe_plan(make_config(), None)
    other = make_config(setup__seed=5)
    assert "warning: a run would be refused: setup.output_dir" in describe_plan(other, None)
    assert "belongs to a different plan (setup.seed was 0, is 5)" in describe_plan(other, None)
    assert "warning" not in describe_plan(other, None, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before
