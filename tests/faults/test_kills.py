"""SIGKILL at any time, then a rerun: the bytes equal those of an uninterrupted run, and no file is ever partial."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import h5py
import pytest
from conftest import output_digests

from faults.conftest import Run

pytestmark = pytest.mark.faults


def assert_whole(run: Run, wanted: dict[str, str]) -> None:
    """Every file with a final name equals that of the uninterrupted run."""
    if not run.out.is_dir():
        return
    for path in run.out.glob("examples-*.h5"):
        with h5py.File(path) as file:
            assert file.attrs["n_examples"] == len(file["labels"])
    for name, digest in output_digests(run.out).items():
        if name.startswith(".") or name == "rows.html":
            continue
        assert digest == wanted[name], name


def children(parent: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False).stdout.split()
    return [int(pid) for pid in found]


def kill(process: subprocess.Popen[str], target: str) -> None:
    if target == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif target == "main":
        process.kill()
    else:
        for child in children(process.pid)[-1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("target", ["main", "worker", "group"])
def test_output_is_identical_after_kills_at_random_times(
    run: Run, wanted: dict[str, str], rounds: int, target: str
) -> None:
    began = time.monotonic()
    timing = Run(run.place / "timing", run.arguments)
    assert timing.finish()[0] == 0
    takes = time.monotonic() - began
    choose = random.Random(target)
    for number in range(rounds // 2):
        again = Run(run.place / str(number), run.arguments)
        for _ in range(2):  # the second kill hits a resumed run
            process = again.start()
            time.sleep(choose.uniform(0, takes))
            kill(process, target)
            stderr = process.communicate(timeout=120)[1]
            if target == "worker" and process.returncode == 0:
                break  # a dead worker is replaced, and the run continues
            # Python prints an error in a worker that was still starting when the main process was killed.
            assert "Traceback" not in stderr.replace('Traceback (most recent call last):\n  File "<string>"', "")
            assert "create_hdf5_dataset.py" not in stderr
            assert_whole(again, wanted)
        code, stderr = again.finish()
        assert code == 0, stderr
        assert output_digests(again.out) == wanted
        assert not list(again.out.rglob("*.tmp"))


# Critical moments: every fsync and rename of shards, receipts, plan, rejects and data_params.
MOMENTS = [
    (name, number, when)
    for name in ("fsync", "replace")
    for number in (1, 2, 3, 4, 7, 21, 22)
    for when in ("before", "after")
]


def moments(rounds: int) -> list[tuple[str, int, str]]:
    return MOMENTS if rounds >= 50 else random.Random(rounds).sample(MOMENTS, min(rounds, len(MOMENTS)))


def test_output_is_identical_after_kills_around_every_sync_and_rename(
    run: Run, wanted: dict[str, str], rounds: int
) -> None:
    for place, (name, number, when) in enumerate(moments(rounds)):
        again = Run(run.place / str(place), run.arguments)
        again.finish(KILL_AT=f"{name}:{number}:{when}", KILL_GROUP="1")
        assert_whole(again, wanted)
        code, stderr = again.finish()
        assert code == 0, stderr
        assert output_digests(again.out) == wanted, (name, number, when)


def test_a_record_that_kills_its_worker_is_named_and_can_be_skipped(run: Run, wanted: dict[str, str]) -> None:
    code, stderr = run.finish(KILL_ON_RECORD='"id": 123,')
    assert code == 1
    last = stderr.strip().splitlines()[-1]
    assert "a.jsonl, line 124 " in last
    task = last.split("--skip-task ")[1].strip()
    assert task.isdecimal()
    done = list(run.out.glob("examples-*.h5"))
    assert len(done) == 9, "all other tasks are finished"
    assert_whole(run, wanted)
    code, stderr = run.finish("--skip-task", task, KILL_ON_RECORD='"id": 123,')
    assert code == 0, stderr
    lines = (run.out / "rejects.jsonl").read_text().splitlines()
    assert sum('"skipped"' in line for line in lines) == 100


def test_a_second_run_in_the_same_folder_is_refused(run: Run, wanted: dict[str, str]) -> None:
    first = run.start()
    while not (run.out / ".work" / "plan.json").exists():
        assert first.poll() is None
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGSTOP)  # it holds the lock while the second run is started
    try:
        code, stderr = run.finish()
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert code == 2
    assert "another run is writing here" in stderr
    assert first.wait() == 0
    assert output_digests(run.out) == wanted


def test_the_lock_of_a_dead_process_is_released(run: Run, wanted: dict[str, str]) -> None:
    first = run.start()
    while not list(run.out.glob("examples-*.h5")):
        assert first.poll() is None
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert run.finish()[0] == 0
    assert output_digests(run.out) == wanted


def test_four_concurrent_slices_with_one_started_twice(run: Run, wanted: dict[str, str]) -> None:
    slices = [2, 0, 3, 1, 3]
    processes = [run.start("--task-slice", f"{index}/4", "setup.processes=1") for index in slices]
    for process in processes:
        stderr = process.communicate(timeout=120)[1]
        assert process.returncode == 0, stderr
    code, stderr = run.finish("--finalize")
    assert code == 0, stderr
    assert output_digests(run.out) == wanted


def test_finalize_before_the_slices_names_the_missing_shards(run: Run) -> None:
    assert run.finish("--task-slice", "0/4")[0] == 0
    code, stderr = run.finish("--finalize")
    assert code == 1
    assert "7 of 10 tasks are not done (1, 2, 3, 5, 6, 7, 9)" in stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "1"},
        {"PYTHONHASHSEED": "77"},
        {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"},
        {"TZ": "Pacific/Kiritimati"},
        {"PYTHONOPTIMIZE": "1"},
    ],
    ids=str,
)
def test_output_does_not_depend_on_the_environment(
    run: Run, wanted: dict[str, str], environment: dict[str, str]
) -> None:
    code, stderr = run.finish(**environment)
    assert code == 0, stderr
    assert output_digests(run.out) == wanted


def test_a_low_limit_of_open_files_is_enough(run: Run, wanted: dict[str, str]) -> None:
    run.place.mkdir(exist_ok=True)
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -n 64; exec "$@"', "bash", *run.command("setup.processes=2")],
        cwd=run.place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode == 0, limited.stderr
    assert output_digests(run.out) == wanted


def test_a_clock_that_jumps_backwards_does_not_change_the_output(
    run: Run, wanted: dict[str, str], tmp_path: Path
) -> None:
    code, stderr = run.finish("--limit", "1")
    assert code == 0, stderr
    for path in run.out.rglob("*"):
        os.utime(path, (2**32, 2**32))  # a modification time in the future
    assert run.finish("--overwrite")[0] == 0
    assert output_digests(run.out) == wanted
