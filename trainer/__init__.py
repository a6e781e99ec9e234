"""The reference training loop: batches of `loaders` → loss, on Hugging Face's LLaVA and `Trainer`. Needs torch.

`python -m trainer.run` trains and evaluates, `python -m trainer.convert` converts; docs/trainer.md shows both.
"""

from importlib.util import find_spec as _find_spec

for _needed in ("torch", "accelerate"):
    if _find_spec(_needed) is None:
        raise ImportError(f"trainer needs {_needed}, which is not installed; run: pip install 'llava-hdf5[train]'")
