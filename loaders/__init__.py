"""Shards → batches: stream the datasets of `create_hdf5_dataset` into a training loop. Needs torch.

`loaders.lazy`, which tokenizes on the fly as LLaVA's own training code does, is imported by its own name.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise ImportError("loaders needs torch, which is not installed; run: pip install 'llava-hdf5[torch]'") from None

from loaders.collate import Batch, Collator
from loaders.data_dir import DataDirError
from loaders.dataloader import LlavaDataLoader, create_dataloader
from loaders.dataset import LlavaH5Dataset
from loaders.images import ImageError
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
