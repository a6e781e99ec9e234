"""Shared by all tests: folders of real data, the embedded example, and small configs."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from hdf5_writer.config import Config, build_config
from hdf5_writer.planning.plan import Plan
from hdf5_writer.report import process as report_process
from hdf5_writer.run import Outcome, create_dataset
from hdf5_writer.task import TaskDone

CHECKOUT = Path(__file__).resolve().parent.parent
QUICKSTART = CHECKOUT / "configs" / "quickstart"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rounds",
        type=int,
        default=6,
        help="random kills and damages in each test of tests/faults; 200 is the long part",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m "not slow"` replaces the default selection, so tests that the default excludes must be marked slow too."""
    for item in items:
        if any(item.get_closest_marker(name) for name in ("faults", "long", "packaging")):
            item.add_marker("slow")


def shared_folder(name: str) -> Path:
    """A folder of real data beside the checkout, which is not part of the project."""
    return CHECKOUT.parent / "shared" / name


def needs_shared(name: str) -> pytest.MarkDecorator:
    folder = shared_folder(name)
    return pytest.mark.skipif(not folder.is_dir(), reason=f"real data is not there: ../shared/{name}")


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def forbid() -> Iterator[Callable[[Path], None]]:
    """Take all permissions from a file or folder until the test ends.

    Root ignores permissions by two capabilities (capabilities(7)), which this thread gives up for as long.
    """
    override = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    before = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable; the lower 32 bits first
    assert libc.capget(header, before) == 0, os.strerror(ctypes.get_errno())
    fewer = (ctypes.c_uint32 * 6)(before[0] & ~override, *before[1:])
    assert libc.capset(header, fewer) == 0, os.strerror(ctypes.get_errno())
    modes: dict[Path, int] = {}

    def forbid(path: Path) -> None:
        modes[path] = path.stat().st_mode
        path.chmod(0)

    yield forbid
    assert libc.capset(header, before) == 0, os.strerror(ctypes.get_errno())
    for path, mode in reversed(modes.items()):
        path.chmod(mode)


def turn_pair(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


ConfigMaker = Callable[..., Config]


@pytest.fixture
def make_config(tmp_path: Path) -> ConfigMaker:
    """A config with the embedded tokenizer and images; `section__key=value` changes a key."""

    def make(**changes: Any) -> Config:
        values: dict[str, dict[str, Any]] = {
            "setup": {"input_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "out"), "processes": 1},
            "processor": {"tokenizer_type": str(QUICKSTART / "tokenizer"), "max_sequence_length": 256},
            "dataset": {
                "image_dir": str(QUICKSTART / "images"),
                "system_prompt_style": "vicuna_v1",
                "image_size": 112,
                "patch_size": 14,
            },
        }
        for name, value in changes.items():
            section, _, key = name.partition("__")
            if value is None:
                values[section].pop(key, None)
            else:
                values[section][key] = value
        return build_config(values, "test", tmp_path)

    return make


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not start the process that writes report.html, which saves two seconds."""
    monkeypatch.setattr(report_process, "write_in_own_process", lambda *_: report_process.ReportMade(None, []))


class InlineExecutor(Executor):
    """Runs each task in this process when it is submitted."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class SilentProgress:
    """Implements `hdf5_writer.run.Progress` and records the calls."""

    def __init__(self) -> None:
        self.done_before = self.records = 0
        self.finished: list[int] = []
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def planned(self, plan: Plan, done: int, records: int) -> None:
        self.done_before, self.records = done, records

    def advance(self, task: TaskDone) -> None:
        self.finished.append(task.task)

    def close(self) -> None: ...


def create(config: Config, **options: Any) -> Outcome:
    """Write a dataset in this process."""
    return create_dataset(config, SilentProgress(), make_executor=InlineExecutor, **options)


def output_digests(root: Path) -> dict[str, str]:
    """sha256 of every reproducible file: all except the report, which shows times."""
    files = (path for path in root.iterdir() if path.is_file() and path.name != "report.html")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
