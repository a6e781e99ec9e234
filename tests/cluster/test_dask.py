"""A real Dask scheduler and workers, as processes on loopback; one worker is killed during the run."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ConfigMaker, SilentProgress, create, output_digests, turn_pair, write_jsonl

from hdf5_writer.config import Config
from hdf5_writer.run import create_dataset
from preprocess.config import ConfigError

distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'llava-hdf5[dask]'")
pytestmark = pytest.mark.faults


STORED: dict[str, dict[str, str]] = {
    "none": {},
    "best_fit, encoded": {"processor__packing": "best_fit", "dataset__store_images": "encoded"},
    "none, pixels": {"dataset__store_images": "pixels", "dataset__image_aspect_ratio": "pad"},
}


@pytest.fixture(params=STORED)
def datasets(request: pytest.FixtureRequest, make_config: ConfigMaker, tmp_path: Path) -> tuple[Config, dict[str, str]]:
    records: list[dict[str, Any]] = []
    for i in range(3000):
        records.append({"conversations": turn_pair(f"Question {i}? " * 9, f"Answer {i}. " * 30)})
        if i % 20 == 0:
            records[-1]["image"] = f"shapes/{i % 15 + 1:04d}.png"
            records[-1]["conversations"] = turn_pair(f"<image>\nQuestion {i}?", f"Answer {i}.")
    write_jsonl(tmp_path / "in" / "a.jsonl", records)
    same = {"setup__samples_per_shard": 50, **STORED[request.param]}
    local = make_config(setup__output_dir=str(tmp_path / "local"), **same)
    create(local)
    wanted = output_digests(tmp_path / "local")
    del wanted["data_params.json"]  # it names the folder and the engine
    return make_config(setup__engine="dask", setup__processes=2, **same), wanted


def digests(folder: Path) -> dict[str, str]:
    found = output_digests(folder)
    del found["data_params.json"]
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler with two workers."""
    address = f"tcp://127.0.0.1:{free_port()}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": str(tmp_path)}
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]
    scheduler = subprocess.Popen([*command, "--no-show"], **quiet)  # type: ignore[call-overload]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    workers = [subprocess.Popen([*worker, "--no-dashboard"], **quiet) for _ in range(2)]  # type: ignore[call-overload]
    yield address, workers
    for process in [*workers, scheduler]:
        process.kill()
        process.wait()


def on(config: Config, address: str) -> Config:
    dask = config.setup.dask.model_copy(update={"scheduler_address": address})
    return config.model_copy(update={"setup": config.setup.model_copy(update={"dask": dask})})


def test_a_cluster_with_a_killed_worker_writes_the_bytes_of_a_local_run(
    datasets: tuple[Config, dict[str, str]], cluster: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    config, wanted = datasets
    address, workers = cluster

    class Killing(SilentProgress):
        def advance(self, task: object) -> None:
            super().advance(task)  # type: ignore[arg-type]
            if len(self.finished) == 10:
                workers[0].kill()

    progress = Killing()
    create_dataset(on(config, address), progress)
    assert workers[0].wait() != 0
    assert sorted(progress.finished) == list(range(60))
    assert digests(tmp_path / "out") == wanted


def test_without_an_address_a_local_cluster_is_started(datasets: tuple[Config, dict[str, str]], tmp_path: Path) -> None:
    config, wanted = datasets
    create_dataset(config, SilentProgress())
    assert digests(tmp_path / "out") == wanted


def test_an_unreachable_scheduler_is_a_one_line_error(
    datasets: tuple[Config, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hdf5_writer.engines.dask._SECONDS_TO_CONNECT", 2)
    began = time.monotonic()
    with pytest.raises(ConfigError, match="no Dask scheduler answers"):
        create_dataset(on(datasets[0], f"tcp://127.0.0.1:{free_port()}"), SilentProgress())
    assert time.monotonic() - began < 60
