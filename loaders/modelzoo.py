"""Convert rows to the HDF5 layout that the data loaders of Cerebras ModelZoo read.

Source: Cerebras/modelzoo at Release_2.10.0: `data/common/h5_map_dataset/readers.py` (`*.h5` sorted by name, the same
dtype and trailing shape in all), `dataset.py` next to it (handling of paths), and under `data/multimodal/llava/`
`LlavaHDF5MapDataProcessor.py` and `MultimodalSimpleHDF5MapDataProcessor.py` (the order of the features).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from isal import isal_zlib

from loaders.blocks import Array, Block
from loaders.data_dir import DataDir
from loaders.normalise import CLIP_STD
from preprocess.square_images import CLIP_MEAN, PAD_COLOUR, AspectRatio

# The path that means "no image".
NO_IMAGE = b"None"
_FIXED, _SEVERAL = "LlavaHDF5MapDataProcessor", "MultimodalSimpleHDF5MapDataProcessor"
# As for shards (hdf5_writer/shard.py): with higher levels, the bytes can differ from process to process.
_ISAL_LEVEL = 0


@dataclass(frozen=True)
class ModelZooLayout:
    """Properties that all files of an export share.

    Attributes:
        length: positions in a row.
        num_patches: slots of an image.
        image_start_idx: position of the first slot; None for free rows.
        most_images: maximum number of images in a row: 1 with `image_start_idx`, else that of the fullest row.
    """

    length: int
    num_patches: int
    image_start_idx: int | None
    most_images: int

    @staticmethod
    def of(data_dir: DataDir) -> ModelZooLayout:
        """Return the layout of a dataset that is not packed."""
        fixed = data_dir.image_start_idx is not None
        most = 1 if fixed else max(1, data_dir.shards[0].params.most_images_per_row)
        return ModelZooLayout(data_dir.max_sequence_length, data_dir.num_patches, data_dir.image_start_idx, most)

    @property
    def processor(self) -> str:
        """Name of the ModelZoo data processor that reads this layout."""
        return _SEVERAL if self.image_start_idx is None else _FIXED

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features along the second axis of `data`."""
        four = ("text_input_ids", "loss_mask", "labels", "key_padding_mask")
        return four if self.image_start_idx is not None else (*four, "token_modality_idx")

    def arrays(self, block: Block) -> dict[str, Array]:
        """Convert n rows to the datasets of a file.

        Returns:
            `data` (n, features, length) int32 and `img_path` (n, most_images) bytes; for free rows also `has_img`
            (n, 1) bool and `img_data_loc` (n, most_images, num_patches) int32, the positions of the slots, filled up
            with `length`.
        """
        rows = len(block.images)
        data = np.zeros((rows, len(self.features), self.length), dtype=np.int32)
        for number, name in enumerate(self.features[:4]):
            data[:, number] = getattr(block, name)
        paths = [[image.path for image in images] for images in block.images]
        longest = max((len(path) for row in paths for path in row), default=0)
        img_path = np.full((rows, self.most_images), NO_IMAGE, dtype=f"S{max(longest, len(NO_IMAGE))}")
        for row, found in enumerate(paths):
            img_path[row, : len(found)] = found
        arrays = {"data": data, "img_path": img_path}
        if self.image_start_idx is None:
            places = np.full((rows, self.most_images, self.num_patches), self.length, dtype=np.int32)
            for row, images in enumerate(block.images):
                for number, image in enumerate(images):
                    places[row, number] = np.arange(image.start, image.start + image.slots)
                    data[row, 4, image.start : image.start + image.slots] = 1
            arrays["has_img"] = np.array([[bool(images)] for images in block.images], dtype=bool).reshape(rows, 1)
            arrays["img_data_loc"] = places
        return arrays

    def train_input(self, folder: str, image_folder: str, image_size: int, aspect_ratio: AspectRatio) -> dict[str, Any]:
        """Return the section `train_input` of a ModelZoo params file, with the transforms of `aspect_ratio`."""
        bars = {"name": "expand_to_square", "background_color": list(PAD_COLOUR)}
        transforms = [
            *([bars] if aspect_ratio == "pad" else []),
            {"name": "resize", "size": image_size, "interpolation": "bicubic"},
            {"name": "center_crop", "size": image_size},
            {"name": "to_tensor"},
            {"name": "normalize", "mean": list(CLIP_MEAN), "std": list(CLIP_STD)},
        ]
        several = {"max_num_img": self.most_images, "num_patches": self.num_patches}
        return {
            "data_processor": self.processor,
            "data_dir": folder,
            "img_data_dir": image_folder,
            "image_data_size": [3, image_size, image_size],
            **(several if self.image_start_idx is None else {}),
            "transforms": transforms,
            "shuffle": False,
            "batch_size": 1,
            "drop_last": True,
            "num_workers": 8,
            "prefetch_factor": 1,
            "persistent_workers": True,
        }


def make_file(blocks: Iterator[Block], rows: int, layout: ModelZooLayout, source: str) -> bytes:
    """Return the bytes of an HDF5 file with the given rows, after reading it back.

    Args:
        blocks: the rows, in order.
        rows: number of rows, at least 1.
        layout: layout of the export.
        source: sha256 of the source shard, stored as an attribute.

    Raises:
        RuntimeError: read-back mismatch.
    """
    kept: dict[str, list[Array]] = {}
    chunks: list[bytes] = []
    checksums: list[int] = []
    for block in blocks:
        arrays = layout.arrays(block)
        for row in arrays.pop("data"):
            chunks.append(_compressed(row))
            checksums.append(isal_zlib.crc32(row.data))
        for name, array in arrays.items():
            kept.setdefault(name, []).append(array)
    columns = {name: np.concatenate(arrays) for name, arrays in kept.items()}
    shape = (len(layout.features), layout.length)
    with h5py.File("export", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        file.attrs["n_examples"] = rows
        file.attrs["source_sha256"] = np.bytes_(source.encode())
        # One chunk per row, since rows are read one at a time.
        data = file.create_dataset(
            "data", (rows, *shape), np.int32, chunks=(1, *shape), compression="gzip", compression_opts=1, shuffle=True
        )
        for number, chunk in enumerate(chunks):
            data.id.write_direct_chunk((number, 0, 0), chunk)
        for name, column in columns.items():
            file.create_dataset(name, data=column, compression="gzip", compression_opts=1, shuffle=True)
        file.flush()
        content: bytes = file.id.get_file_image()
    with h5py.File(io.BytesIO(content), "r") as file:
        for row, checksum in enumerate(checksums):
            if isal_zlib.crc32(np.ascontiguousarray(file["data"][row]).data) != checksum:
                raise RuntimeError(
                    f"read-back mismatch: the values of data, row {row}, differ from those written; rerun the command"
                )
        for name, column in columns.items():
            if not np.array_equal(file[name][:], column):
                raise RuntimeError(
                    f"read-back mismatch: the values of {name} differ from those written; rerun the command"
                )
    return content


def _compressed(row: Array) -> bytes:
    """Apply HDF5's shuffle and deflate filters to a chunk."""
    planes = np.ascontiguousarray(row.view(np.uint8).reshape(-1, row.itemsize).T)
    return isal_zlib.compress(planes.data, _ISAL_LEVEL)
