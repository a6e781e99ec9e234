"""Which checkpoints in a model folder are whole, and what they were made with."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hdf5_writer.publish import DamagedError as BrokenSealError
from hdf5_writer.publish import publish, seal, unseal
from trainer.params import Params
from trainer.params_file import ParamsError

# Written last, with size and sha256 of the other files: one that a kill left half-written does not have it.
_STATE = "loader_state.json"
# Written last beside the model that a run ends with.
_FINISHED = "finished.json"
_WEIGHTS = "model"  # how the names of these files begin
_PARAMS = "params.json"
_NAME = re.compile(r"checkpoint-(\d+)")
# What a run may not change when it goes on: the model, and the optimizer whose state is taken back.
_FIXED = ("model", "optimizer")


class DamagedError(ValueError):
    """Files are not as they were written; the message names the first."""


def finished_saving(model_dir: Path) -> list[Path]:
    """The checkpoints of a folder that were written to the end, the oldest first. They are not read."""
    found = [path for path in model_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name) and is_checkpoint(path)]
    return sorted(found, key=step_of)


def is_checkpoint(folder: Path) -> bool:
    """Whether everything of a checkpoint was written."""
    return (folder / _STATE).is_file()


def newest_whole(model_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are as they were written.

    Returns:
        Its folder, None where there are no checkpoints; and what is wrong with each newer one.

    Raises:
        ParamsError: there are checkpoints, and all are damaged.
    """
    damages: list[str] = []
    for checkpoint in reversed(finished_saving(model_dir)):
        try:
            check(checkpoint)
        except DamagedError as error:
            damages.append(str(error))
            continue
        return checkpoint, damages
    if damages:
        raise ParamsError(
            f"{model_dir}: has no checkpoint that is whole: {'; '.join(damages)}; restore the files, or give another "
            "--model_dir to start over"
        )
    return None, []


def check(folder: Path, *, weights_alone: bool = False) -> None:
    """Compare the files of a checkpoint, or of the model that a run ended with, with what was written.

    Args:
        folder: of a checkpoint, or a model folder; of a folder that no run has declared whole nothing is known.
        weights_alone: read the weights only.

    Raises:
        DamagedError: a file is missing, or has another size or content.
    """
    written_last = next((folder / name for name in (_STATE, _FINISHED) if (folder / name).exists()), None)
    if written_last is None:
        return
    for name, written in _read_sealed(written_last)["files"].items():
        if weights_alone and not name.startswith(_WEIGHTS):
            continue
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path} is missing")
        if path.stat().st_size != written["size"]:
            raise DamagedError(f"{path} has {path.stat().st_size:,} bytes, {written['size']:,} were written")
        if _sha256(path) != written["sha256"]:
            raise DamagedError(f"{path} has not the content that was written")


def set_aside(model_dir: Path, resumed: Path) -> None:
    """Forget the checkpoints behind the one that is resumed: they are damaged, and must not count when pruning."""
    for checkpoint in finished_saving(model_dir):
        if step_of(checkpoint) > step_of(resumed):
            (checkpoint / _STATE).unlink(missing_ok=True)


def has_finished(model_dir: Path) -> bool:
    """Whether a run has left its model in the folder. It is not read."""
    return (model_dir / _FINISHED).exists()


def is_finished(model_dir: Path, steps: int) -> bool:
    """Whether a run of so many steps has left its model in the folder.

    Raises:
        DamagedError: it has, and its weights are not as they were written.
    """
    if not has_finished(model_dir) or int(_read_sealed(model_dir / _FINISHED)["steps"]) < steps:
        return False
    check(model_dir)
    return True


def step_of(checkpoint: Path) -> int:
    """The optimizer step a checkpoint was written after."""
    match = _NAME.fullmatch(checkpoint.resolve().name)
    if match is None:
        raise ParamsError(f"{checkpoint}: is no checkpoint of a run; give a folder named checkpoint-N")
    return int(match.group(1))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The place in the data that belongs to a checkpoint that was checked."""
    return dict(_read_sealed(checkpoint / _STATE)["loader"])


def complete(checkpoint: Path, state: dict[str, Any]) -> None:
    """Declare a checkpoint whole, with the place in the data, and size and sha256 of each of its files."""
    files = {str(path.relative_to(checkpoint)): path for path in sorted(checkpoint.rglob("*")) if path.is_file()}
    files.pop(_STATE, None)  # of a damaged checkpoint that this one replaces
    publish(checkpoint / _STATE, [seal({"loader": state, "files": _describe(files)}, indent=True)])


def finish(model_dir: Path, steps: int) -> None:
    """Declare the model that a run of so many steps ended with whole. Files beside the weights may be edited."""
    files = {path.name: path for path in sorted(model_dir.iterdir()) if path.name.startswith(_WEIGHTS)}
    publish(model_dir / _FINISHED, [seal({"steps": steps, "files": _describe(files)}, indent=True)])


def prune(model_dir: Path, keep: int) -> None:
    """Remove all checkpoints but the newest ones."""
    for checkpoint in finished_saving(model_dir)[:-keep]:
        (checkpoint / _STATE).unlink()  # first: a kill in between must not leave half of one that looks whole
        shutil.rmtree(checkpoint)


def write_params(model_dir: Path, params: Params) -> None:
    """Note what the run of this folder is made with."""
    model_dir.mkdir(parents=True, exist_ok=True)
    document = json.dumps(params.model_dump(mode="json"), indent=1) + "\n"
    publish(model_dir / _PARAMS, [document.encode()])


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


def _describe(files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Size and sha256 of files; several at a time, since the weights of a large model take a minute or more."""
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(_sha256, files.values()))
    return {
        name: {"size": path.stat().st_size, "sha256": digest}
        for (name, path), digest in zip(files.items(), digests, strict=True)
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read_sealed(path: Path) -> dict[str, Any]:
    try:
        return unseal(path)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing") from None
    except BrokenSealError:
        raise DamagedError(f"{path} has not the content that was written") from None
