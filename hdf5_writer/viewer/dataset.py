"""Read rows of a finished dataset by number, source or image, with a few rows in memory at a time."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import orjson
from isal import isal_zlib
from PIL import Image

from hdf5_writer.data_params import DataParamsError, read_data_params
from hdf5_writer.invariants import row_problems, table_problems
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.plan import read_plan
from hdf5_writer.schema import CONTENT_DATA, DATASETS
from hdf5_writer.tables import images_of_samples, read_tables, rows_of_entries, sample_of_image, tables_of_rows
from hdf5_writer.viewer.row import Row, RowImage, RowSample
from preprocess.config import ConfigError
from preprocess.image_files import decode_rgb
from preprocess.regular_files import open_regular
from preprocess.settings import did_you_mean

_Array = npt.NDArray[Any]
# Bytes. A chunk of 64 rows of 8,192 int32 takes 2 MB; the default cache of HDF5 is 1 MB.
_CHUNK_CACHE = 4 << 20

# Row number → numbers, in the row, of the selected samples.
SelectedSamples = dict[int, set[int]]


class InspectedDataset:
    """A finished dataset; keeps one shard open at a time."""

    def __init__(self, root: Path) -> None:
        """`root`: the output folder of a finished run.

        Raises:
            ConfigError: it is not a finished dataset, or has another major version.
        """
        self.layout = OutputLayout(root)
        if not root.is_dir():
            raise ConfigError(f"{root}: no such folder; give the setup.output_dir of a run")
        try:
            self.params = read_data_params(self.layout)
        except FileNotFoundError:
            raise ConfigError(
                f"{self.layout.data_params}: is missing, so this is not a finished dataset; "
                "give the setup.output_dir of a run, or run its command again to finish it"
            ) from None
        except DataParamsError as error:
            raise ConfigError(str(error)) from None
        self.files = [file.path for file in self.params.inputs]
        self._starts = np.cumsum([0, *(shard.rows for shard in self.params.shards)])
        self._file: h5py.File | None = None
        self._opened = -1
        self._columns: dict[str, h5py.Dataset] = {}
        self._tables: dict[str, _Array] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, number: int) -> Row:
        """Read a row by its number over all shards.

        Raises:
            OSError: its shard cannot be read.
        """
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        at = number - int(self._starts[shard])
        file = self._shard(shard)
        with _damage_of(self.layout.root / self.params.shards[shard].name):
            block = {name: file[name][at : at + 1] for name in file} | tables_of_rows(self._tables, at, at + 1)
        return Row(
            number=number,
            samples=self._samples(block, shard),
            text_input_ids=block["text_input_ids"][0],
            labels=block["labels"][0],
            loss_mask=block["loss_mask"][0],
            key_padding_mask=block["key_padding_mask"][0],
            problems=tuple(problem for problem, broken in row_problems(block, self.params) if broken[0]),
        )

    def stored_image(self, image: RowImage) -> Image.Image:
        """Read an image from its shard; only for datasets that store images.

        Raises:
            OSError: the shard cannot be read.
            ValueError: the stored bytes do not match their CRC-32.
            Exception: any exception of a Pillow plugin.
        """
        shard, content = image.content
        self._shard(shard)
        assert self._file is not None
        start, stop = self._tables["contents/begin"][content : content + 2].tolist()
        data = self._file[CONTENT_DATA][start:stop]
        if isal_zlib.crc32(data.data) != self._tables["contents/crc32"][content]:
            raise ValueError("the stored bytes do not match their CRC-32")
        if self.params.store_images == "encoded":
            return decode_rgb(io.BytesIO(data.data))
        side = self.params.image_size
        return Image.fromarray(np.ascontiguousarray(data.reshape(3, side, side).transpose(1, 2, 0)))

    def find_source(self, file: str, line: int, limit: int) -> SelectedSamples:
        """Find the sample of an input line; empty if the line was rejected."""
        index = self.files.index(self.input_name(file))
        return self._search(
            lambda tables: np.flatnonzero(
                (tables["samples/source_line"] == line) & (tables["samples/source_file"] == index)
            ),
            limit,
        )

    def image_dir_and_tokenizer(self) -> tuple[Path | None, str]:
        """Return the image folder and the tokenizer of the run; relative paths refer to its working directory."""
        try:
            config = read_plan(self.layout).local_config()
            return config.dataset.image_dir, config.processor.tokenizer_type
        except (OSError, ValueError, KeyError, TypeError):  # the work folder is missing or of another version
            given = self.params.config.dataset.image_dir
            return None if given is None else Path(given).expanduser(), self.params.tokenizer.name

    def input_name(self, file: str) -> str:
        """Return the name of an input in `data_params.json`, given that name or a longer path ending in it.

        Raises:
            ConfigError: no such input.
        """
        for name in self.files:
            if file == name or file.endswith(f"/{name}"):
                return name
        raise ConfigError(
            f"--source {file}: is not one of the {len(self.files)} inputs of this dataset"
            f"{did_you_mean(file, self.files)}; the first is {self.files[0]}"
        )

    def find_image(self, path: str, limit: int) -> SelectedSamples:
        """Find the samples with an image, in the first `limit` rows that have it."""
        wanted = path.encode()
        return self._search(lambda tables: sample_of_image(tables)[tables["images/path"] == wanted], limit)

    def find_text_only(self, limit: int) -> SelectedSamples:
        """Find the samples without an image, in the first `limit` rows that have one."""
        return self._search(lambda tables: np.flatnonzero(images_of_samples(tables) == 0), limit)

    def sources(self, shard: int) -> tuple[_Array, _Array, _Array, _Array]:
        """Return (file index, line, row number, sample number in the row) of each sample of a shard."""
        self._shard(shard)
        rows = rows_of_entries(self._tables, "samples")
        within = np.arange(len(rows)) - self._tables["samples/offsets"][rows]
        files, lines = (self._tables[f"samples/source_{name}"] for name in ("file", "line"))
        return files, lines, rows + int(self._starts[shard]), within

    def rows_of_first_samples(self, limit: int) -> int:
        """Return how many of the first rows hold at most `limit` samples in total; at least 1."""
        rows = samples = 0
        for shard, entry in enumerate(self.params.shards):
            if samples + entry.samples > limit:
                self._shard(shard)
                within = int(np.searchsorted(self._tables["samples/offsets"], limit - samples, side="right")) - 1
                return max(1, rows + within)
            rows, samples = rows + entry.rows, samples + entry.samples
        return rows

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.params.shards)

    def reject_of(self, file: str, line: int) -> str | None:
        """Return why an input line was rejected; None if it was not."""
        needle = orjson.dumps({"file": file, "line": line})[1:-1]
        with open_regular(self.layout.rejects) as lines:
            for data in lines:
                if needle in data:
                    reject = orjson.loads(data)
                    if (reject["file"], reject["line"]) == (file, line):
                        return f"{reject['reason']}: {reject['detail']}"
        return None

    def _samples(self, block: Mapping[str, _Array], shard: int) -> tuple[RowSample, ...]:
        """Build the samples of a row from its table entries."""
        images: list[list[RowImage]] = [[] for _ in block["samples/start"]]
        columns = (block[f"images/{name}"].tolist() for name in ("path", "start", "slots", "content"))
        entries_of_images = zip(sample_of_image(block).tolist(), *columns, strict=True)
        for number, (sample, path, start, slots, content) in enumerate(entries_of_images):
            image = RowImage(path.decode(errors="replace"), start, slots, (shard, content), number)
            images[max(sample, 0)].append(image)
        fixed_at = self.params.image_start_idx
        dummy = None if fixed_at is None else (fixed_at, self.params.num_patches)
        names = ("source_file", "source_line", "start", "length")
        entries = zip(*(block[f"samples/{name}"].tolist() for name in names), strict=True)
        return tuple(
            RowSample(number, self.files[file], line, start, length, tuple(images[number]), dummy_slots)
            for number, (file, line, start, length) in enumerate(entries)
            for dummy_slots in [None if images[number] else dummy]
        )

    def _search(self, matches: Callable[[dict[str, _Array]], _Array], limit: int) -> SelectedSamples:
        """Find the samples whose numbers `matches` returns for the tables of each shard, in at most `limit` rows."""
        found: SelectedSamples = {}
        for shard in range(self.shards):
            self._shard(shard)
            samples = np.unique(matches(self._tables))
            rows = rows_of_entries(self._tables, "samples")[samples]
            within = samples - self._tables["samples/offsets"][rows]
            for row, number in zip((rows + int(self._starts[shard])).tolist(), within.tolist(), strict=True):
                if len(found) == limit and row not in found:
                    return found
                found.setdefault(row, set()).add(number)
        return found

    def _shard(self, number: int) -> dict[str, h5py.Dataset]:
        """Open a shard, load its tables into `_tables`, and return its per-position datasets.

        They stay open, since HDF5 caches the last chunk only while its dataset is open.
        """
        if self._opened != number:
            if self._file is not None:
                self._file.close()
            shard = self.params.shards[number]
            path = self.layout.root / shard.name
            if not path.is_file():
                raise OSError(f"{path}: is missing or not a regular file")
            with _damage_of(path):
                self._file = h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE)
                problem = next(iter(self.params.shard_problems(self._file, shard.size)), None)
            if problem is not None:
                raise OSError(f"{path}: is not the shard that data_params.json describes: {problem}")
            with _damage_of(path):
                self._tables = read_tables(self._file)
            for problem in table_problems(self._tables, shard.size):
                raise OSError(f"{path}: is damaged: {problem}")
            wide = [name for name, spec in DATASETS.items() if spec.entry == "positions"]
            self._columns, self._opened = {name: self._file[name] for name in wide}, number
        return self._columns


@contextlib.contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """Add the name of the shard to errors of HDF5, which do not have it."""
    try:
        yield
    except PermissionError:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)) from None
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise OSError(f"{path}: is damaged or truncated: {error}") from None
