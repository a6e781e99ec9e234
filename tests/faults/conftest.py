"""A dataset for fault injection, and the installed command that writes it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, QUICKSTART, output_digests, turn_pair, write_jsonl

FAULT_INJECTION = CHECKOUT / "tests" / "tools" / "fault_injection"


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    found: int = request.config.getoption("--rounds")
    return found


@dataclass
class Run:
    """One output folder, and the command that writes it."""

    place: Path
    arguments: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.place / "out"

    def command(self, *more: str) -> list[str]:
        command = [sys.executable, "-m", "hdf5_writer.create_hdf5_dataset", "--config", "quickstart.yaml"]
        options = [text for text in more if "=" not in text]
        changes = [text for text in more if "=" in text]
        return [*command, *options, "setup.output_dir=out", "setup.max_reject_fraction=1", *self.arguments, *changes]

    def start(self, *more: str, **environment: str) -> subprocess.Popen[str]:
        self.place.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join(filter(None, [str(FAULT_INJECTION), os.environ.get("PYTHONPATH", "")]))
        return subprocess.Popen(
            self.command(*more),
            cwd=self.place,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, *more: str, **environment: str) -> tuple[int, str]:
        """Run to the end; return exit code and stderr."""
        process = self.start(*more, **environment)
        _, stderr = process.communicate(timeout=300)
        return process.returncode, stderr


def records(count: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for number in range(count):
        question = f"Question {number}? " + "Say more. " * (number % 7)
        record: dict[str, Any] = {"id": number, "conversations": turn_pair(question, f"Answer {number}. " * 10)}
        if number % 3 == 0:
            record["image"] = f"shapes/{number % 15 + 1:04d}.png"
            record["conversations"][0]["value"] = f"<image>\n{question}"
        if number % 50 == 7:
            record["conversations"] = []
        made.append(record)
    return made


# Rows of both kinds, and images at all possible positions.
FORMS = {
    "none": ["processor.packing=none", "dataset.check_images=exists"],
    "best_fit, encoded": ["processor.packing=best_fit", "dataset.store_images=encoded"],
    "none, pixels": ["dataset.store_images=pixels", "dataset.image_aspect_ratio=pad"],
}


@pytest.fixture(scope="session", params=FORMS)
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], dict[str, str]]:
    """The arguments of the run, and the digests of its output without faults."""
    place = tmp_path_factory.mktemp("uninterrupted")
    data = write_jsonl(place / "data" / "a.jsonl", records(700))
    write_jsonl(place / "data" / "b.jsonl", records(300))
    arguments = [
        f"setup.input_dir={data.parent}",
        "setup.samples_per_shard=100",
        "processor.max_sequence_length=1024",
        f"dataset.image_dir={QUICKSTART / 'images'}",
        *FORMS[request.param],
    ]
    run = Run(place, arguments)
    code, stderr = run.finish()
    assert code == 0, stderr
    return arguments, output_digests(run.out)


@pytest.fixture
def run(tmp_path: Path, uninterrupted: tuple[list[str], dict[str, str]]) -> Run:
    return Run(tmp_path, uninterrupted[0])


@pytest.fixture
def wanted(uninterrupted: tuple[list[str], dict[str, str]]) -> dict[str, str]:
    return uninterrupted[1]
