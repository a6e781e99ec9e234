"""Values that occur in several files of the repository agree."""

from __future__ import annotations

import re

import yaml
from conftest import CHECKOUT

import hdf5_writer


def test_the_citation_has_the_version_of_the_package() -> None:
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == hdf5_writer.__version__
    assert f"## {hdf5_writer.__version__}" in (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_pre_commit_hooks_run_the_same_checks_as_ci() -> None:
    hooks = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    commands = {hook["entry"].replace(" --force-exclude", "") for hook in hooks}
    lines = {line.removesuffix(" .") for line in (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8").splitlines()}
    assert commands == {"ruff check", "ruff format --check", "mypy"}
    assert commands <= lines


def test_the_workflow_runs_the_ci_script_on_the_oldest_and_the_newest_python() -> None:
    workflow = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["run"]
    assert {"run": ".ci/run"} in job["steps"]
    named = re.findall(r"Python :: (3\.\d+)$", (CHECKOUT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    assert job["strategy"]["matrix"]["python"] == [named[0], named[-1]]
