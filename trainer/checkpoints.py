"""Which checkpoints in a model folder are whole, and what they were made with."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from trainer.params import Params
from trainer.params_file import ParamsError

# Written last: a checkpoint that has it is whole, one that a kill left half-written does not.
_STATE = "loader_state.json"
_PARAMS = "params.json"
_NAME = re.compile(r"checkpoint-(\d+)")
# What a run may not change when it goes on: the model, and the optimizer whose state is taken back.
_FIXED = ("model", "optimizer")


def whole_checkpoints(model_dir: Path) -> list[Path]:
    """The whole checkpoints of a folder, the oldest first."""
    found = [path for path in model_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name) and is_whole(path)]
    return sorted(found, key=step_of)


def is_whole(checkpoint: Path) -> bool:
    """Whether everything of it was written."""
    return (checkpoint / _STATE).is_file()


def is_finished(model_dir: Path, steps: int) -> bool:
    """Whether a run of so many steps has left its model in the folder: its state is written last."""
    path = model_dir / "trainer_state.json"
    return path.exists() and int(json.loads(path.read_bytes())["global_step"]) >= steps


def step_of(checkpoint: Path) -> int:
    """The optimizer step a checkpoint was written after."""
    match = _NAME.fullmatch(checkpoint.resolve().name)
    if match is None:
        raise ParamsError(f"{checkpoint}: is no checkpoint of a run; give a folder named checkpoint-N")
    return int(match.group(1))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The place in the data that belongs to a whole checkpoint."""
    return json.loads((checkpoint / _STATE).read_bytes())  # type: ignore[no-any-return]


def complete(checkpoint: Path, state: dict[str, Any]) -> None:
    """Declare a checkpoint whole, with the place in the data."""
    _write(checkpoint / _STATE, state)


def prune(model_dir: Path, keep: int) -> None:
    """Remove all whole checkpoints but the newest ones."""
    for checkpoint in whole_checkpoints(model_dir)[:-keep]:
        (checkpoint / _STATE).unlink()  # first: a kill in between must not leave half of one that looks whole
        shutil.rmtree(checkpoint)


def write_params(model_dir: Path, params: Params) -> None:
    """Note what the run of this folder is made with."""
    model_dir.mkdir(parents=True, exist_ok=True)
    _write(model_dir / _PARAMS, params.model_dump(mode="json"))


def refuse_other_params(model_dir: Path, params: Params) -> None:
    """Refuse to go on with the run of a folder with another model or optimizer.

    Raises:
        ParamsError: names the key and both values.
    """
    path = model_dir / _PARAMS
    if not path.exists():
        return
    before = _flat(json.loads(path.read_bytes()))
    now = _flat(params.model_dump(mode="json"))
    for key in sorted(before.keys() | now.keys()):
        if key.split(".")[0] in _FIXED and before.get(key) != now.get(key):
            raise ParamsError(
                f"{model_dir}: holds checkpoints of a run with {key} {before.get(key)!r}, but the params have "
                f"{now.get(key)!r}; give another --model_dir, or the params that run began with"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _write(path: Path, document: dict[str, Any]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)
