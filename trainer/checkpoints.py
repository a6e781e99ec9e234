"""Write, verify and prune the checkpoints of a model folder, and record the params that they were made with."""

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

# Written last, with the size and sha256 of the other files, so that an incomplete checkpoint does not have it.
_STATE = "loader_state.json"
# Written last with the final model of a run.
_FINISHED = "finished.json"
_WEIGHTS = "model"  # prefix of the names of weight files
_PARAMS = "params.json"
_NAME = re.compile(r"checkpoint-(\d+)")
# Sections that must not change when a run is resumed, since weights and optimizer state are restored.
_FIXED = ("model", "optimizer")


class DamagedError(ValueError):
    """A file differs from what was written, or is missing; the message names it."""


def complete_checkpoints(model_dir: Path) -> list[Path]:
    """Return the completely written checkpoints of a folder, oldest first, without reading their files."""
    found = [path for path in model_dir.glob("checkpoint-*") if _NAME.fullmatch(path.name) and is_checkpoint(path)]
    return sorted(found, key=step_of)


def is_checkpoint(folder: Path) -> bool:
    """Return whether a checkpoint was written completely."""
    return (folder / _STATE).is_file()


def newest_undamaged(model_dir: Path) -> tuple[Path | None, list[str]]:
    """Find the newest undamaged checkpoint.

    Returns:
        its folder, or None if there are no checkpoints; and the damage of each newer one.

    Raises:
        ParamsError: there are checkpoints, and all are damaged.
    """
    damages: list[str] = []
    for checkpoint in reversed(complete_checkpoints(model_dir)):
        try:
            check(checkpoint)
        except DamagedError as error:
            damages.append(str(error))
            continue
        return checkpoint, damages
    if damages:
        raise ParamsError(
            f"{model_dir}: has no undamaged checkpoint: {'; '.join(damages)}; restore the files, or give another "
            "--model_dir to start over"
        )
    return None, []


def check(folder: Path, *, weights_only: bool = False) -> None:
    """Compare the files of a checkpoint, or of the final model of a run, with the recorded sizes and sha256.

    Args:
        folder: a checkpoint or model folder; a folder without such a record is not checked.
        weights_only: check only the weights.

    Raises:
        DamagedError: a file is missing, or has another size or content.
    """
    manifest = next((folder / name for name in (_STATE, _FINISHED) if (folder / name).exists()), None)
    if manifest is None:
        return
    for name, written in _read_sealed(manifest)["files"].items():
        if weights_only and not name.startswith(_WEIGHTS):
            continue
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{path} is missing")
        if path.stat().st_size != written["size"]:
            raise DamagedError(f"{path} has {path.stat().st_size:,} bytes, expected {written['size']:,}")
        if _sha256(path) != written["sha256"]:
            raise DamagedError(f"{path} does not match its checksum")


def mark_newer_incomplete(model_dir: Path, resumed: Path) -> None:
    """Mark the checkpoints after the resumed one as incomplete: they are damaged and must not count in `prune`."""
    for checkpoint in complete_checkpoints(model_dir):
        if step_of(checkpoint) > step_of(resumed):
            (checkpoint / _STATE).unlink(missing_ok=True)


def has_finished(model_dir: Path) -> bool:
    """Return whether a run has saved its final model in the folder, without reading it."""
    return (model_dir / _FINISHED).exists()


def is_finished(model_dir: Path, steps: int) -> bool:
    """Return whether a run of at least `steps` steps has saved its final model in the folder.

    Raises:
        DamagedError: it has, but the weights are damaged.
    """
    if not has_finished(model_dir) or int(_read_sealed(model_dir / _FINISHED)["steps"]) < steps:
        return False
    check(model_dir)
    return True


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step after which a checkpoint was written."""
    match = _NAME.fullmatch(checkpoint.resolve().name)
    if match is None:
        raise ParamsError(f"{checkpoint}: is not a checkpoint of a run; give a folder named checkpoint-N")
    return int(match.group(1))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the loader state of a checkpoint that `check` has accepted."""
    return dict(_read_sealed(checkpoint / _STATE)["loader"])


def complete(checkpoint: Path, state: dict[str, Any]) -> None:
    """Mark a checkpoint as complete: record the loader state, and the size and sha256 of each file."""
    files = {str(path.relative_to(checkpoint)): path for path in sorted(checkpoint.rglob("*")) if path.is_file()}
    files.pop(_STATE, None)  # of a damaged checkpoint that this one replaces
    publish(checkpoint / _STATE, [seal({"loader": state, "files": _describe(files)}, indent=True)])


def finish(model_dir: Path, steps: int) -> None:
    """Mark the final model of a run of `steps` steps as complete; only the weights are recorded, not other files."""
    files = {path.name: path for path in sorted(model_dir.iterdir()) if path.name.startswith(_WEIGHTS)}
    publish(model_dir / _FINISHED, [seal({"steps": steps, "files": _describe(files)}, indent=True)])


def prune(model_dir: Path, keep: int) -> None:
    """Remove all checkpoints except the `keep` newest."""
    for checkpoint in complete_checkpoints(model_dir)[:-keep]:
        (checkpoint / _STATE).unlink()  # first, so that a kill does not leave a partial checkpoint that looks complete
        shutil.rmtree(checkpoint)


def write_params(model_dir: Path, params: Params) -> None:
    """Record the params of the run in its model folder."""
    model_dir.mkdir(parents=True, exist_ok=True)
    document = json.dumps(params.model_dump(mode="json"), indent=1) + "\n"
    publish(model_dir / _PARAMS, [document.encode()])


def refuse_other_params(model_dir: Path, params: Params) -> None:
    """Refuse to resume the run of a folder with another model or optimizer.

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
                f"{model_dir}: has checkpoints of a run with {key} {before.get(key)!r}, but the params have "
                f"{now.get(key)!r}; give another --model_dir, or the params of that run"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _describe(files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Return the size and sha256 of files, hashing several in parallel, since large weights take minutes."""
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
        raise DamagedError(f"{path} does not match its checksum") from None
