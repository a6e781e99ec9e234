"""Shards → batches: stream the datasets of `create_hdf5_dataset` into a training loop. Needs torch.

`loaders.lazy`, which tokenizes on the fly as LLaVA's own training code does, is imported by its own name.
"""

# ruff: noqa: E402, what is imported is looked for first
from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path

# A file or folder of the user's beside their script may bear the name of one of ours, and Python finds it first.
for _name in ("preprocess", "hdf5_writer"):
    _found = _find_spec(_name)
    _place = None if _found is None else (_found.origin or next(iter(_found.submodule_search_locations or ()), None))
    _ours = _Path(__file__).resolve().parent.parent / _name / "__init__.py"
    if _place is not None and _Path(_place).resolve() != _ours:
        raise ImportError(
            f"{__name__} needs its own package {_name} ({_ours}), but Python finds {_place} first: rename that, or run "
            "python -P"
        )

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise ImportError("loaders needs torch, which is not installed; run: pip install 'llava-hdf5[torch]'") from None

from loaders.collate import Batch, Collator
from loaders.data_dir import DataDirError
from loaders.dataloader import LlavaDataLoader, create_dataloader
from loaders.dataset import LlavaH5Dataset
from loaders.image_transform import ImageError
from loaders.shard_reader import ShardError

__all__ = [
    "Batch",
    "Collator",
    "DataDirError",
    "ImageError",
    "LlavaDataLoader",
    "LlavaH5Dataset",
    "ShardError",
    "create_dataloader",
]
