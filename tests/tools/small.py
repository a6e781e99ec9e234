"""Small datasets, params and models for the tests of the trainer: 16 patches, 96 positions, two layers."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from conftest import CHECKOUT, QUICKSTART, create, turn_pair, write_jsonl

from hdf5_writer.config import build_config

IMAGES = QUICKSTART / "images"
PICTURES = sorted(str(path.relative_to(IMAGES)) for path in IMAGES.rglob("*.png"))
PATCHES, LENGTH = 16, 96
FREEZE_PHASE_1 = [r"^model\.vision_tower\.", r"^model\.language_model\.", r"^lm_head\."]
FREEZE_PHASE_2 = [r"^model\.vision_tower\."]
# With one thread, sums have a fixed order in this and in child processes; small models are no faster with more.
torch.set_num_threads(1)
_FOLDERS = tempfile.TemporaryDirectory(prefix="llava-hdf5-trainer-")


@functools.cache
def dataset(rows: int = 24, style: str = "vicuna_v1", salt: str = "a") -> Path:
    """A read-only dataset whose every third row has no image (with `plain`, every row has one)."""
    folder = Path(_FOLDERS.name) / f"{style}-{rows}-{salt}"
    records: list[dict[str, Any]] = []
    for number in range(rows):
        answer = f"Answer {salt} {number} " + "word " * (number * 5 % 11)
        if style == "plain" or number % 3:
            turns = turn_pair("<image>\nWhat is this?", answer)
            records.append({"image": PICTURES[number % len(PICTURES)], "conversations": turns})
        else:
            records.append({"conversations": turn_pair(f"Say {number}.", answer)})
    write_jsonl(folder / "in" / "records.jsonl", records)
    values: dict[str, dict[str, Any]] = {
        "setup": {
            "input_dir": str(folder / "in"),
            "output_dir": str(folder / "out"),
            "processes": 1,
            "samples_per_shard": 10,
        },
        "processor": {"tokenizer_type": str(QUICKSTART / "tokenizer"), "max_sequence_length": LENGTH},
        "dataset": {"image_dir": str(IMAGES), "system_prompt_style": style, "image_size": 56, "patch_size": 14},
    }
    create(build_config(values, "test", folder))
    return folder / "out"


def values(**changes: Any) -> dict[str, Any]:
    """Values of a params file; `section__key=value` changes a key, and None removes it."""
    made: dict[str, Any] = {
        "train_input": {"data_dir": str(dataset()), "img_data_dir": str(IMAGES), "batch_size": 4},
        "model": {
            "freeze": FREEZE_PHASE_2,
            "image_model": {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 56,
                "patch_size": 14,
            },
            "text_model": {
                "tokenizer": str(QUICKSTART / "tokenizer"),
                "vocab_size": 1800,
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            },
        },
        "optimizer": {"learning_rate": 1e-3},
        "runconfig": {"max_steps": 4, "log_steps": 1, "precision": "fp32"},
    }
    for name, value in changes.items():
        *sections, key = name.split("__")
        section = made
        for part in sections:
            section = section.setdefault(part, {})
        if value is None:
            section.pop(key, None)
        else:
            section[key] = value
    return made


def write_params(folder: Path, **changes: Any) -> Path:
    """A params file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(values(**changes)), encoding="utf-8")
    return path


def run_python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in a separate process that can import from the checkout and from this folder."""
    paths = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tests"), str(Path(__file__).parent)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def logged(model_dir: Path, name: str) -> list[float]:
    """One value of every log line of a run."""
    history = json.loads((model_dir / "trainer_state.json").read_bytes())["log_history"]
    return [entry[name] for entry in history if name in entry]
