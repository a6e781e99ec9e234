"""The reference training loop, with Hugging Face's LLaVA and `Trainer`, on batches of `loaders`. Needs torch.

`python -m trainer.run` trains and evaluates, `python -m trainer.convert` converts; docs/trainer.md shows both.
"""

from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path
from runpy import run_path as _run_path

_checks = _run_path(str(_Path(__file__).resolve().parent.parent / "preprocess" / "own_packages.py"))
_checks["require_own"](__name__, "preprocess", "hdf5_writer", "loaders")

for _needed in ("torch", "accelerate"):
    if _find_spec(_needed) is None:
        raise ImportError(f"trainer needs {_needed}, which is not installed; run: pip install 'llava-hdf5[train]'")
