"""The environment of a run: read-only folders, unusual paths, inputs that change during the run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import output_digests

from faults.conftest import Run

pytestmark = pytest.mark.faults


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder that nobody can write to, not even root."""
    if os.geteuid():
        folder.chmod(0o555)
    else:
        for options in (["--bind", folder], ["-o", "remount,ro,bind"]):
            if subprocess.run(["mount", *options, folder], capture_output=True, check=False).returncode:
                pytest.skip("a read-only file system cannot be mounted here")
    try:
        yield
    finally:
        if os.geteuid():
            folder.chmod(0o755)
        else:
            subprocess.run(["umount", folder], check=True)


def with_own_inputs(run: Run, place: Path, data: Path, *more: str) -> tuple[Run, Path]:
    """A run on a copy of the inputs in `data`, and the original of that copy."""
    given = "setup.input_dir="
    source = Path(next(text for text in run.arguments if text.startswith(given)).removeprefix(given))
    shutil.copytree(source, data)
    kept = [text for text in run.arguments if not text.startswith(given)]
    return Run(place, [*kept, f"{given}{data}", *more]), source


def without_params(digests: dict[str, str]) -> dict[str, str]:
    # It contains the config with the input folder.
    return {name: digest for name, digest in digests.items() if name != "data_params.json"}


def assert_one_line_error(stderr: str, words: str) -> None:
    last = stderr.strip().splitlines()[-1]
    assert "Traceback" not in stderr
    assert last.startswith("create_hdf5_dataset: ")
    assert words in last


def test_an_output_folder_that_cannot_be_created_is_a_config_error(run: Run) -> None:
    run.place.mkdir(exist_ok=True)
    with read_only(run.place):
        code, stderr = run.finish()
    assert code == 2
    assert_one_line_error(stderr, "setup.output_dir out: cannot be created or written (")
    assert not run.out.exists()


def test_a_run_resumes_after_its_output_folder_became_read_only(run: Run, wanted: dict[str, str]) -> None:
    first = run.start()
    while not list(run.out.glob("examples-*.h5")):
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.communicate()
    there = output_digests(run.out)
    with read_only(run.out):
        code, stderr = run.finish()
        assert code in (1, 2)
        assert_one_line_error(stderr, "out")
        assert ("Read-only file system" if not os.geteuid() else "Permission denied") in stderr
    assert {name: digest for name, digest in output_digests(run.out).items() if name in there} == there
    assert run.finish()[0] == 0
    assert output_digests(run.out) == wanted


def test_paths_may_contain_spaces_and_non_ascii_letters(run: Run, wanted: dict[str, str]) -> None:
    place = run.place / "mit Leerzeichen ü 图像 'quoted'"
    odd, _ = with_own_inputs(run, place, place / "Daten é")
    code, stderr = odd.finish()
    assert code == 0, stderr
    assert without_params(output_digests(odd.out)) == without_params(wanted)


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("{}\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (Path.unlink, "was removed after planning"),
        (lambda path: os.truncate(path, path.stat().st_size // 2), "was changed after it was planned"),
        (_append, "was changed after it was planned"),
        (lambda path: os.utime(path, ns=(1, 1)), "was changed after it was planned"),
    ],
    ids=["removed", "cut", "longer", "touched"],
)
def test_an_input_that_changes_during_the_run_is_named(
    run: Run, wanted: dict[str, str], damage: Callable[[Path], None], words: str
) -> None:
    data = run.place / "data"
    changed, source = with_own_inputs(run, run.place, data, "setup.processes=1")
    process = changed.start()
    while not (changed.out / ".work" / "plan.json").exists():
        assert process.poll() is None
        time.sleep(0.001)
    damage(data / "a.jsonl")
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert_one_line_error(stderr, f"{data}/a.jsonl: {words}")
    shutil.rmtree(data)
    shutil.copytree(source, data)
    code, stderr = changed.finish()
    assert code == 0, stderr
    assert without_params(output_digests(changed.out)) == without_params(wanted)
