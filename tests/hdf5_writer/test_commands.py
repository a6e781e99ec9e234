"""The installed commands as users run them: exit codes, messages, kills, identical bytes."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, QUICKSTART, needs_shared, output_digests, shared_folder, turn_pair, write_jsonl

from hdf5_writer import create_hdf5_dataset, failures
from hdf5_writer import run as run_module
from hdf5_writer.engines.local import TasksFailedError
from hdf5_writer.planning import index as index_module

pytestmark = pytest.mark.usefixtures("without_report")
COMMAND = [sys.executable, "-m", "hdf5_writer.create_hdf5_dataset", "--config", "quickstart.yaml"]


def call(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Like `run`, but in this process."""
    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = create_hdf5_dataset.main(["--config", "quickstart.yaml", *arguments])
    except SystemExit as exit_:  # of argparse
        code = int(exit_.code or 0)
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def assert_one_line_error(result: subprocess.CompletedProcess[str]) -> str:
    """Assert that there is no traceback and that the last line of stderr contains the message."""
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("create_hdf5_dataset: ")
    return last


@pytest.mark.slow
def test_the_example_is_written_and_summarised(tmp_path: Path) -> None:
    result = run(cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    params = json.loads((tmp_path / "quickstart_output" / "data_params.json").read_text())
    table = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in result.stdout.splitlines())
    assert table["read"] == str(params["counts"]["read"]) == "55"
    assert table["image_start_idx"] == str(params["image_start_idx"])
    assert {"written", "rejected", "text tokens", "supervised tokens", "padding", "records/s", "shards"} <= set(table)
    assert "55 records → 3 shard(s)" in result.stderr
    assert "\r" not in result.stderr, "no progress bar if stderr is not a terminal"
    again = run(cwd=tmp_path)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("packing", "numbers"), [("none", (1, 5)), ("best_fit", (1, 2))])
def test_the_same_bytes_for_any_number_of_processes(tmp_path: Path, packing: str, numbers: tuple[int, ...]) -> None:
    digests = []
    for processes in numbers:
        out = tmp_path / str(processes)
        result = call(
            f"setup.processes={processes}",
            f"setup.output_dir={out}",
            "setup.samples_per_shard=6",
            f"processor.packing={packing}",
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stderr
        digests.append(output_digests(out))
    assert len(digests[0]) == 12
    assert digests[0] == digests[1]


@pytest.mark.faults
def test_the_same_bytes_after_kills_of_the_whole_group(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "in" / "a.jsonl",
        [{"conversations": turn_pair(f"Question {i}? " * 20, f"Answer {i}. " * 40)} for i in range(1000)]
        + [{"conversations": []}],
    )
    arguments = [f"setup.input_dir={tmp_path / 'in'}", "setup.output_dir=out", "setup.samples_per_shard=50"]
    places = {}
    for place in ("uninterrupted", "killed"):
        places[place] = tmp_path / place
        places[place].mkdir()
    assert run(*arguments, cwd=places["uninterrupted"]).returncode == 0
    out = places["killed"] / "out"
    finished = []
    for wanted in (0, 1, 5, 12):
        process = started(places["killed"], *arguments)
        wait_until(functools.partial(has_shards, out, wanted), process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        finished.append(len(shards_of(out)))
    assert finished == sorted(finished), "finished shards survive kills"
    assert 12 <= finished[-1] <= 21
    assert run(*arguments, cwd=places["killed"]).returncode == 0
    assert output_digests(out) == output_digests(places["uninterrupted"] / "out")
    assert not list(out.rglob("*.tmp"))
    verified = subprocess.run([sys.executable, "-m", "hdf5_writer.verify_hdf5_dataset", str(out)], check=False)
    assert verified.returncode == 0


def shards_of(out: Path) -> list[Path]:
    return list(out.glob("examples-*.h5"))


def has_shards(out: Path, wanted: int) -> bool:
    return (out / ".work").is_dir() and len(shards_of(out)) >= wanted


def started(place: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until a condition holds, or fail if the process exits first."""
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


@pytest.fixture(scope="module")
def long_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records that take longer to process than any test waits."""
    record = {"conversations": turn_pair("Q " * 100, "A " * 300)}
    return write_jsonl(tmp_path_factory.mktemp("long") / "a.jsonl", [record] * 20_000)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_run_and_its_workers(tmp_path: Path, long_input: Path, number: signal.Signals) -> None:
    options = ("setup.samples_per_shard=100", "setup.processes=2")
    process = started(tmp_path, f"setup.input_dir={long_input}", *options)
    out = tmp_path / "quickstart_output"
    wait_until(lambda: bool(shards_of(out)), process)
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "run the same command again to resume" in stderr
    assert "Traceback" not in stderr
    deadline = time.monotonic() + 30
    while _group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _group_lives(process.pid)
    assert not (out / "data_params.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "handles",
        *(pytest.param(moment, marks=pytest.mark.faults) for moment in ("makes folders", "indexes", "has a plan")),
        "has shards",
    ],
)
def test_ctrl_c_at_any_time_prints_one_line(tmp_path: Path, long_input: Path, moment: str) -> None:
    options = ("setup.samples_per_shard=500", "setup.processes=3")
    process = started(tmp_path, f"setup.input_dir={long_input}", *options)
    out = tmp_path / "quickstart_output"
    # Before any code of this package has run, Python itself handles the signal.
    wait_until(lambda: _handles(process.pid, signal.SIGTERM), process)
    reached: dict[str, Callable[[], bool]] = {
        "handles": lambda: True,
        "makes folders": lambda: (out / ".work").is_dir(),
        "indexes": lambda: any((out / ".work").rglob("*.i64")),
        "has a plan": lambda: any((out / ".work").rglob("plan.json")),
        "has shards": lambda: len(shards_of(out)) >= 2,
    }
    wait_until(reached[moment], process)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert "interrupted" in stderr
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "leaked" not in stderr


def test_ctrl_c_while_arguments_are_parsed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting(list[Any]):
        """Sends the signal in the second loop over the positionals, whose `finally` needs what the loop saves."""

        loops = 0

        def __iter__(self) -> Any:
            self.loops += 1
            if self.loops == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__iter__()

    parser = create_hdf5_dataset._parser()
    positionals = Interrupting(parser._get_positional_actions())
    monkeypatch.setattr(parser, "_get_positional_actions", lambda: positionals)
    monkeypatch.setattr(create_hdf5_dataset, "_parser", lambda: parser)
    assert create_hdf5_dataset.main(["--config", "c.yaml"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_file_name_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"conversations": turn_pair("Q?", "A.")}])
    os.rename(tmp_path / "in" / "a.jsonl", os.fsencode(tmp_path / "in") + b"/\xff.jsonl")
    for extra in ([], ["--dry-run"]):
        done = call(f"setup.input_dir={tmp_path / 'in'}", *extra, cwd=tmp_path)
        assert done.returncode == 2
        assert "the name is not UTF-8" in done.stderr
        assert "Traceback" not in done.stderr


def _handles(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, according to /proc."""
    status = Path(f"/proc/{process}/status").read_text()
    return bool(int(re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[0], 16) >> (number - 1) & 1)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["processor.max_sequence_lenght=5"], "did you mean processor.max_sequence_length?"),
        (["setup.processes=many"], "setup.processes is 'many'"),
        (["setup.input_dir=/no/such"], "no such file or folder"),
        (["setup.output_dir=/proc/nope"], "cannot be created or written"),
        (["processor.tokenizer_type=./nope"], "no such folder"),
        (["dataset.image_dir=./nope"], "no such folder"),
        (["dataset.system_prompt_style=vicuna"], "did you mean vicuna_v1?"),
        (["processor.max_sequence_length=600"], "need at least"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = call(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert words in assert_one_line_error(result)
    assert not list(tmp_path.rglob("*.h5"))


@needs_shared("tokenizers")
@pytest.mark.parametrize("name", ["broken-html", "broken-lfs-pointer", "config-without-model"])
def test_a_broken_tokenizer_gives_exit_code_2(tmp_path: Path, name: str) -> None:
    result = call(f"processor.tokenizer_type={shared_folder('tokenizers') / name}", cwd=tmp_path)
    assert result.returncode == 2
    assert name in assert_one_line_error(result)


def test_a_file_without_read_permission_is_exit_2_with_what_to_do(
    tmp_path: Path, forbid: Callable[[Path], None]
) -> None:
    shutil.copytree(QUICKSTART / "tokenizer", tmp_path / "tk")
    records = write_jsonl(tmp_path / "in" / "a.jsonl", [{"conversations": turn_pair("Q?", "A.")}])
    config = tmp_path / "my.yaml"
    config.write_text("setup: {}")
    model = next(path for path in (tmp_path / "tk").iterdir() if path.name in ("tokenizer.json", "tokenizer.model"))
    for file, *arguments in (
        (model, f"processor.tokenizer_type={tmp_path / 'tk'}"),
        (records, f"setup.input_dir={tmp_path / 'in'}"),
        (config, f"--config={config}"),
    ):
        forbid(file)
        result = call(*arguments, f"setup.output_dir={tmp_path / 'out'}", "setup.processes=1", cwd=tmp_path)
        assert result.returncode == 2
        said = f"create_hdf5_dataset: {file}: cannot be read (Permission denied); make it readable"
        assert assert_one_line_error(result) == said
    assert call(f"setup.output_dir={tmp_path / 'out'}", cwd=tmp_path).returncode == 0
    forbid(tmp_path / "out" / ".work" / "plan.json")
    result = call(f"setup.output_dir={tmp_path / 'out'}", cwd=tmp_path)
    assert result.returncode == 1
    assert "plan.json: Permission denied; finished shards are kept: make it readable and" in result.stderr


@pytest.mark.slow
def test_another_plan_in_the_output_folder_gives_exit_code_2_unless_overwrite(tmp_path: Path) -> None:
    assert call(cwd=tmp_path).returncode == 0
    result = call("setup.seed=1", cwd=tmp_path)
    assert result.returncode == 2
    assert "setup.seed was 0, is 1" in assert_one_line_error(result)
    assert call("setup.seed=1", "--overwrite", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_too_many_rejects_give_exit_code_3_and_a_finished_dataset(tmp_path: Path) -> None:
    good = {"conversations": turn_pair("Q", "A")}
    write_jsonl(tmp_path / "a.jsonl", [*[good] * 18, {}, {}])
    arguments = [f"setup.input_dir={tmp_path / 'a.jsonl'}"]
    result = call(*arguments, cwd=tmp_path)
    assert result.returncode == 3
    assert "2 of 20 records were rejected (10.0%)" in assert_one_line_error(result)
    assert (tmp_path / "quickstart_output" / "data_params.json").exists()
    assert call(*arguments, "setup.max_reject_fraction=0.1", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_a_full_disk_gives_exit_code_1_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60k", "none", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        result = call("setup.samples_per_shard=6", cwd=small)
        assert result.returncode == 1
        assert re.search(r"quickstart_output/.*: No space left on device", assert_one_line_error(result))
        assert not list(small.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=10m", str(small)], check=True)
        assert call("setup.samples_per_shard=6", cwd=small).returncode == 0
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        assert call("setup.samples_per_shard=6", cwd=elsewhere).returncode == 0
        assert output_digests(small / "quickstart_output") == output_digests(elsewhere / "quickstart_output")
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
def test_a_dry_run_prints_the_plan_and_the_first_record_and_writes_nothing(tmp_path: Path) -> None:
    result = call("--dry-run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "55 records → 3 shard(s)" in result.stdout
    assert re.search(r"conversations\.jsonl, line 1 with image shapes/0001\.png", result.stdout)
    lines = result.stdout.splitlines()
    assert re.fullmatch(r" +0 +1 +'<s>'", lines[7]), lines[7]
    assert any("576 image slots" in line for line in lines)
    supervised = [line for line in lines if " yes " in line]
    assert supervised[-1].endswith("'</s>'")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_decompresses_only_the_first_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    record = {"conversations": turn_pair("What is this?", "A bus."), "padding": "x" * 4000}
    line = json.dumps(record).encode() + b"\n"
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        (inputs / name).write_bytes(gzip.compress(line * 6000, 1))
    read = 0
    whole = index_module._read_blocks

    def counted(stream: Any) -> Iterator[bytes]:
        nonlocal read
        for block in whole(stream):
            read += len(block)
            yield block

    monkeypatch.setattr(index_module, "_read_blocks", counted)
    arguments = ["--config", "quickstart.yaml", f"setup.input_dir={inputs}", f"setup.output_dir={tmp_path / 'out'}"]
    assert create_hdf5_dataset.main([*arguments, "--dry-run"]) == 0
    stdout = capsys.readouterr().out
    assert "records not counted (compressed inputs)" in stdout
    assert "a.jsonl.gz, line 1, text only" in stdout
    assert 0 < read < 2 * 6000 * len(line) / 2


def test_options_may_stand_between_overrides(tmp_path: Path) -> None:
    result = call("setup.seed=3", "--dry-run", "setup.samples_per_shard=11", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "5 shard(s)" in result.stdout


@pytest.mark.slow
def test_a_closed_pipe_causes_no_traceback(tmp_path: Path) -> None:
    command = " ".join([*COMMAND, "--dry-run"])
    result = subprocess.run(
        ["bash", "-c", f"{command} | true"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in result.stderr
    assert "Exception" not in result.stderr


@pytest.mark.slow
def test_a_limit_takes_the_first_records(tmp_path: Path) -> None:
    result = call("--limit", "7", cwd=tmp_path)
    assert result.returncode == 0
    assert "7 records → 1 shard(s)" in result.stderr


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_a_limit_that_is_not_a_number_gives_exit_code_2(tmp_path: Path, limit: str) -> None:
    result = call("--limit", limit, cwd=tmp_path)
    assert result.returncode == 2
    assert "is not a number of records" in result.stderr


def test_help_names_the_main_options(tmp_path: Path) -> None:
    result = run("--help", cwd=tmp_path)
    assert result.returncode == 0
    for words in ("--config", "section.key=value", "--dry-run", "--limit", "--overwrite", "Exit codes"):
        assert words in result.stdout


@pytest.mark.parametrize("name", ["create_hdf5_dataset", "verify_hdf5_dataset"])
def test_commands_are_installed_with_and_without_py(name: str) -> None:
    scripts = Path(sys.executable).parent
    assert (scripts / name).exists()
    assert (scripts / f"{name}.py").exists()


@pytest.mark.slow
def test_torch_is_never_imported(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"  # an import of it would now fail
        "from hdf5_writer.create_hdf5_dataset import main\n"
        f"code = main(['--config', 'quickstart.yaml', 'setup.output_dir={tmp_path / 'out'}', '--dry-run'])\n"
        "assert 'transformers' not in sys.modules, 'slow to import, and not needed'\n"
        "sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_paths_may_contain_spaces_and_other_scripts(tmp_path: Path) -> None:
    place = tmp_path / "a place with blanks, ümläuts and 漢字"
    place.mkdir()
    write_jsonl(place / "ein gabe.jsonl", [{"image": "shapes/0001.png", "conversations": turn_pair("<image>Q", "A")}])
    result = call(f"setup.input_dir={place}", f"setup.output_dir={place / 'aus gabe'}", cwd=place)
    assert result.returncode == 0, result.stderr
    assert (QUICKSTART / "images" / "shapes" / "0001.png").exists()


@pytest.mark.parametrize("interrupted", [False, True])
def test_main_restores_the_signal_handlers_of_its_caller(monkeypatch: pytest.MonkeyPatch, interrupted: bool) -> None:
    def answer(_: list[str]) -> int:
        if interrupted:
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setattr(create_hdf5_dataset, "_run_command", answer)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert create_hdf5_dataset.main([] if interrupted else None) == (143 if interrupted else 0)
        assert {number: signal.getsignal(number) for number in before} == before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(("begun", "advised"), [(True, True), (False, False)])
def test_skipping_is_suggested_only_after_a_record_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], begun: bool, advised: bool
) -> None:
    """Simulates a worker that is killed before it has loaded anything."""

    def killed(*_: object, **__: object) -> None:
        raise TasksFailedError([0], rest_is_done=begun)

    monkeypatch.setattr(run_module, "create_dataset", killed)
    monkeypatch.setattr(failures, "where_task_stopped", lambda *_: ("task 0", begun))
    code = create_hdf5_dataset.main(["--config", "quickstart.yaml", f"setup.output_dir={tmp_path}"])
    stderr = capsys.readouterr().err
    assert code == 1
    assert ("--skip-task 0" in stderr) == advised
    assert ("the data is not the cause" in stderr) != advised
    assert ("All other tasks are done" in stderr) == begun


def sbatch(tmp_path: Path, *arguments: str, **environment: str) -> list[str]:
    """Run the commands of the Slurm script in an environment like that of Slurm."""
    command = tmp_path / "bin" / "create_hdf5_dataset"
    command.parent.mkdir(exist_ok=True)
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PARTS"))}
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", CHECKOUT / "docs" / "preprocess.sbatch", *arguments],
        env={**clean, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(("task", "count"), [("3", "8"), ("3", "1"), ("0", "2")])
def test_a_resubmitted_slurm_array_task_is_the_same_part(tmp_path: Path, task: str, count: str) -> None:
    slurm = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": count, "SLURM_CPUS_PER_TASK": "2"}
    for parts in ({}, {"PARTS": "100"}):
        given = sbatch(tmp_path, "MY.yaml", "setup.seed=3", **slurm, **parts)
        options = create_hdf5_dataset._parser().parse_intermixed_args(given)
        assert options.task_slice == (int(task), int(parts.get("PARTS", "8")))
        assert (options.config, options.overrides) == ("MY.yaml", ["setup.seed=3", "setup.processes=2"])


def test_slurm_finalizes_outside_of_the_array(tmp_path: Path) -> None:
    options = create_hdf5_dataset._parser().parse_intermixed_args(sbatch(tmp_path, "MY.yaml", "--finalize"))
    assert options.finalize
    assert options.task_slice is None
