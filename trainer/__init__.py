"""The reference training loop: batches of `loaders` → loss, on Hugging Face's LLaVA and `Trainer`. Needs torch.

`python -m trainer.run` trains and evaluates, `python -m trainer.convert` converts; docs/trainer.md shows both.
"""

from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path

# A file or folder of the user's beside their script may bear the name of one of ours, and Python finds it first.
for _name in ("preprocess", "hdf5_writer", "loaders"):
    _found = _find_spec(_name)
    _place = None if _found is None else (_found.origin or next(iter(_found.submodule_search_locations or ()), None))
    _ours = _Path(__file__).resolve().parent.parent / _name / "__init__.py"
    if _place is not None and _Path(_place).resolve() != _ours:
        raise ImportError(
            f"{__name__} needs its own package {_name} ({_ours}), but Python finds {_place} first: rename that, or run "
            "python -P"
        )

for _needed in ("torch", "accelerate"):
    if _find_spec(_needed) is None:
        raise ImportError(f"trainer needs {_needed}, which is not installed; run: pip install 'llava-hdf5[train]'")
