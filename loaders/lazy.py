"""A lazy dataset that tokenizes each sample on access, as LLaVA's own training code does.

Names, arguments and shapes are those of haotian-liu/LLaVA, llava/train/train.py; ids and labels are computed by the
stages of `preprocess` that also write the shards. For debugging, small data and users of that code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from PIL import Image
from torch.utils.data import Dataset

from loaders.image_transform import ImageError, ImageTransform, read_image
from preprocess.config import DatasetConfig
from preprocess.conversation import ConversationReader
from preprocess.images import ImageChecker
from preprocess.messages import flatten_messages
from preprocess.record_formats import MAX_INSPECTED, format_of, keys_by_format
from preprocess.record_keys import IMAGES
from preprocess.records import UTF8_BOM, parse_record
from preprocess.regular_files import read_regular, unreadable
from preprocess.rejects import Rejected
from preprocess.square_images import AspectRatio, pad_to_square
from preprocess.templates import renderer_for
from preprocess.tokenize.encoder import Encoder
from preprocess.tokenize.tokenizer import Tokenizer, load_tokenizer

IGNORE_INDEX = -100
IMAGE_TOKEN_INDEX = -200
# The authors' short name for their default template.
_VERSIONS = {"v1": "vicuna_v1"}
# transformers uses 1e30 for a tokenizer without a limit.
_NO_LIMIT = 1 << 31


@dataclass(frozen=True)
class DataArguments:
    """The attributes of `data_args` that `LazySupervisedDataset` reads; any object with them works.

    Attributes:
        data_path: only for `make_supervised_data_module`.
        version: the template, a `system_prompt_style` (the authors keep it in their model arguments).
        image_folder: the folder that image paths are relative to; None reads no images.
        image_aspect_ratio: "square" or "pad".
        is_multimodal: whether text-only samples get an image of zeros.
        image_processor: a transformers image processor; None uses that of CLIP with `image_size`.
        image_size: side of the image in pixels if there is no processor.
        max_images: maximum number of images in a record.
    """

    data_path: str | Path = ""
    version: str = "vicuna_v1"
    image_folder: str | Path | None = None
    image_aspect_ratio: AspectRatio = "square"
    is_multimodal: bool = False
    image_processor: Any = None
    image_size: int = 336
    max_images: int = 1


class LazySupervisedDataset(Dataset[dict[str, torch.Tensor]]):
    """Samples of a `.json` (one array) or `.jsonl` file: `input_ids`, `labels` (length,) int64, `image` (3, H, W).

    An image is one -200 in `input_ids`; labels are not shifted, and are -100 without loss. A record with an image has
    `image` if `image_folder` is given, and a record with several has (N, 3, H, W). Text-only records have zeros if
    `is_multimodal`, otherwise no `image`.
    """

    def __init__(self, data_path: str | Path, tokenizer: Any, data_args: Any) -> None:
        """Read the records without tokenizing them.

        Args:
            data_path: the file.
            tokenizer: a `Tokenizer` of `preprocess.tokenize.tokenizer`, a folder or Hugging Face name, or a
                transformers tokenizer whose `name_or_path` is one.
            data_args: see `DataArguments`.

        Raises:
            ValueError: the file cannot be read or is not a JSON array, or the tokenizer or template is wrong
                (`ConfigError`).
        """
        self._path = Path(data_path)
        self._records = _read_records(self._path)
        self._tokenizer = _LazyTokenizer.of(tokenizer)
        self._encoder = Encoder(self._tokenizer.tokenizer)
        version = getattr(data_args, "version", "vicuna_v1")
        dataset = DatasetConfig(
            system_prompt_style=_VERSIONS.get(version, version), max_images=getattr(data_args, "max_images", 1)
        )
        self._renderer = renderer_for(dataset, self._tokenizer.tokenizer)
        folder = getattr(data_args, "image_folder", None)
        self._folder = None if folder is None else Path(folder)
        keys = keys_by_format(dataset)
        self._format = format_of(_parse_valid(self._records[:MAX_INSPECTED]), keys)
        self._keys = keys[self._format]
        self._reader = ConversationReader(dataset, self._renderer.traits)
        self._checker = ImageChecker(self._folder, "none" if folder is None else "exists")
        self._is_multimodal = bool(getattr(data_args, "is_multimodal", False))
        self._images = _ImageReader(
            getattr(data_args, "image_processor", None),
            getattr(data_args, "image_aspect_ratio", "square"),
            getattr(data_args, "image_size", 336),
        )

    def __len__(self) -> int:
        """Return the number of records, including those that would be rejected."""
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return one sample.

        Raises:
            ValueError: the record would be rejected by `create_hdf5_dataset`, or an image cannot be decoded
                (`ImageError`); with the file, the line and the reason.
        """
        where, data = self._records[index]
        try:
            conversation = self._reader.read(_parse(data), self._format)
            images = tuple(map(self._checker.check, conversation.images))
            sequence = self._encoder.encode(self._renderer.render(conversation))
        except Rejected as reject:
            raise ValueError(f"{self._path}, {where}: {reject}; create_hdf5_dataset rejects such records") from None
        ids = sequence.ids.astype(np.int64)
        labels = np.full_like(ids, IGNORE_INDEX)
        for start, end in sequence.supervised:
            labels[start:end] = ids[start:end]
        if sequence.image_at:
            ids = np.insert(ids, sequence.image_at, IMAGE_TOKEN_INDEX)
            labels = np.insert(labels, sequence.image_at, IGNORE_INDEX)
        elif self._tokenizer.max_length is not None:
            # The authors' tokenizer call truncates text-only records; with an image, only their collator does.
            ids, labels = ids[: self._tokenizer.max_length], labels[: self._tokenizer.max_length]
        sample = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
        if not conversation.images:
            if self._is_multimodal:
                sample["image"] = self._images.blank()
        elif self._folder is not None:
            pixels = [self._read_image(self._folder / image, where) for image in images]
            sample["image"] = pixels[0] if len(pixels) == 1 else torch.stack(pixels)
        return sample

    def _read_image(self, path: Path, where: str) -> torch.Tensor:
        try:
            return self._images.read(path)
        except ImageError as error:
            raise ImageError(f"{self._path}, {where}: {path} cannot be read ({error}); replace it") from None

    @property
    def lengths(self) -> list[int]:
        """Return the authors' estimate: words of each record, plus 128 if it has the key `image` with any value."""
        return [words + 128 * has_key for words, has_key in self._word_counts()]

    @property
    def modality_lengths(self) -> list[int]:
        """Return the authors' estimate for grouping: the words of each record, negative without the key `image`."""
        return [words if has_key else -words for words, has_key in self._word_counts()]

    def _word_counts(self) -> list[tuple[int, bool]]:
        counts = []
        for where, data in self._records:
            try:
                record = flatten_messages(_parse(data), self._keys)
                words = sum(len(turn[self._keys.content].split()) for turn in record[self._keys.turns])
                counts.append((words, self._keys.image in record or IMAGES in record))
            except (Rejected, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{self._path}, {where}: is not a conversation ({error}); correct or remove the record"
                ) from None
        return counts


class DataCollatorForSupervisedDataset:
    """Pads samples to the longest: `input_ids`, `labels` (B, T) int64, `attention_mask` (B, T) bool, `images`.

    Unlike in the authors' code, the mask is computed from lengths, since the pad id may also occur in a text.
    """

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer`: see `LazySupervisedDataset`; the batch is truncated to its `model_max_length`, if any."""
        self._tokenizer = _LazyTokenizer.of(tokenizer)

    def __call__(self, instances: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """Make a batch; `images` is (N, 3, H, W) for all N images in order, or a list if their sizes differ.

        Raises:
            ValueError: some samples have an image and some have none.
        """
        limit = self._tokenizer.max_length
        ids = [instance["input_ids"][:limit] for instance in instances]
        pad = torch.nn.utils.rnn.pad_sequence
        batch: dict[str, Any] = {
            "input_ids": pad(ids, batch_first=True, padding_value=self._tokenizer.pad_id),
            "labels": pad(
                [instance["labels"][:limit] for instance in instances], batch_first=True, padding_value=IGNORE_INDEX
            ),
            "attention_mask": pad([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True),
        }
        images = [instance["image"] for instance in instances if "image" in instance]
        if images:
            if len(images) < len(instances):
                raise ValueError(
                    f"{len(instances) - len(images)} of {len(instances)} samples have no image; "
                    "set is_multimodal of the data arguments, so that they get an image of zeros"
                )
            images = [one for image in images for one in (image if image.ndim == 4 else image[None])]
            alike = all(image.shape == images[0].shape for image in images)
            batch["images"] = torch.stack(images) if alike else images
        return batch


def make_supervised_data_module(tokenizer: Any, data_args: Any) -> dict[str, Any]:
    """Return `train_dataset`, `eval_dataset` (None) and `data_collator`: arguments of a Hugging Face `Trainer`."""
    loaded = _LazyTokenizer.of(tokenizer)
    return {
        "train_dataset": LazySupervisedDataset(data_args.data_path, loaded, data_args),
        "eval_dataset": None,
        "data_collator": DataCollatorForSupervisedDataset(loaded),
    }


@dataclass(frozen=True)
class _LazyTokenizer:
    """A tokenizer of `preprocess`, with the pad id and length limit of the given transformers tokenizer, if any."""

    tokenizer: Tokenizer
    pad_id: int
    max_length: int | None = None

    @staticmethod
    def of(given: Any) -> _LazyTokenizer:
        if isinstance(given, _LazyTokenizer):
            return given
        if isinstance(given, Tokenizer):
            return _LazyTokenizer(given, given.pad_id)
        if isinstance(given, (str, Path)):
            return _LazyTokenizer.of(load_tokenizer(str(given)))
        name = getattr(given, "name_or_path", "")
        if not name:
            raise ValueError(
                f"tokenizer is a {type(given).__name__} without name_or_path; give the folder it was loaded from"
            )
        loaded = load_tokenizer(name)
        if given.eos_token_id != loaded.eos_id:
            raise ValueError(
                f"tokenizer has eos_token_id {given.eos_token_id}, but the one in {name} has {loaded.eos_id}; "
                "give the folder of the tokenizer to use"
            )
        pad_id, limit = given.pad_token_id, given.model_max_length
        return _LazyTokenizer(
            loaded, loaded.pad_id if pad_id is None else pad_id, int(limit) if limit < _NO_LIMIT else None
        )


class _ImageReader:
    """Reads the image of a sample: with the authors' steps if there is a processor, otherwise with `ImageTransform`."""

    def __init__(self, processor: Any, aspect_ratio: AspectRatio, image_size: int) -> None:
        self._processor = processor
        self._aspect_ratio = aspect_ratio
        self._transform = ImageTransform(image_size, aspect_ratio, torch.float32)

    def read(self, path: Path) -> torch.Tensor:
        return read_image(path, self._transform if self._processor is None else self._processed)

    def _processed(self, opened: Image.Image) -> torch.Tensor:
        image = opened.convert("RGB")
        if self._aspect_ratio == "pad":
            image = pad_to_square(image, tuple(int(x * 255) for x in self._processor.image_mean))
        pixels: torch.Tensor = self._processor.preprocess(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    def blank(self) -> torch.Tensor:
        if self._processor is None:
            return self._transform.blank()
        size = self._processor.crop_size
        return torch.zeros(3, size["height"], size["width"])


def _read_records(path: Path) -> list[tuple[str, Any]]:
    """Return the place of each record, and the record: parsed for `.json`, the bytes of its line for JSONL."""
    try:
        data = read_regular(path).removeprefix(UTF8_BOM)
    except OSError as error:
        raise ValueError(f"{path}: {unreadable(error, 'give a .json or .jsonl file as data_path')}") from None
    if path.suffix != ".json":
        lines = enumerate(data.split(b"\n"), start=1)
        return [(f"line {number}", line) for number, line in lines if line.strip()]
    try:
        records = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(
            f"{path}: is not valid JSON ({error}); give a file with one record per line the suffix .jsonl"
        ) from None
    if not isinstance(records, list):
        raise ValueError(f"{path}: holds a JSON {type(records).__name__}, expected an array of records")
    return [(f"record {number}", record) for number, record in enumerate(records, start=1)]


def _parse_valid(records: Sequence[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    for _, data in records:
        with contextlib.suppress(Rejected):
            yield _parse(data)


def _parse(data: Any) -> dict[str, Any]:
    record: dict[str, Any] = parse_record(data if isinstance(data, bytes) else orjson.dumps(data))
    return record
