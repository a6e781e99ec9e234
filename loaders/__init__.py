"""Load the datasets of `create_hdf5_dataset` as batches for a training loop. Needs torch.

`loaders.lazy`, which tokenizes on the fly as LLaVA's own training code does, must be imported separately.
"""

# ruff: noqa: E402, the dependencies are checked before the imports
from pathlib import Path as _Path
from runpy import run_path as _run_path

_checks = _run_path(str(_Path(__file__).resolve().parent.parent / "preprocess" / "own_packages.py"))
_checks["require_own"](__name__, "preprocess", "hdf5_writer")

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
