"""Command line of `export_hdf5 IN_DIR OUT_DIR --format modelzoo`."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import h5py
import yaml
from tqdm.auto import tqdm

from hdf5_writer.layout import OutputLayout
from hdf5_writer.publish import DamagedError, publish, seal, sha256_of, unseal
from loaders.blocks import Block
from loaders.data_dir import DataDir, DataDirError, Shard, read_data_dir
from loaders.modelzoo import NO_IMAGE, ModelZooLayout, make_file
from loaders.shard_reader import BLOCK_ROWS, ShardError, ShardReader
from preprocess.regular_files import NotRegularError, open_regular
from preprocess.square_images import AspectRatio

DONE, FAILED, WRONG_INPUT = 0, 1, 2
FORMAT = "modelzoo"


class ExportError(ValueError):
    """The dataset or the folder cannot be used; the message is one sentence for the user."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if all files were written, 1 if the export failed, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="export_hdf5",
        description="Export a dataset of create_hdf5_dataset to the format of another trainer, one file per shard, and "
        "print the section train_input for its params file.",
        epilog="Exit codes: 0 done; 1 the export failed; 2 wrong arguments, or a dataset that the format does not "
        "support; 130 interrupted.",
    )
    parser.add_argument("in_dir", type=Path, help="a finished dataset of create_hdf5_dataset")
    parser.add_argument("out_dir", type=Path, help="output folder")
    parser.add_argument("--format", choices=[FORMAT], required=True, help="target format: Cerebras ModelZoo")
    parser.add_argument(
        "--image_dir", metavar="DIR", help="image folder in the printed section (default: dataset.image_dir of the run)"
    )
    parser.add_argument(
        "--image_aspect_ratio",
        choices=get_args(AspectRatio),
        default="square",
        help="image transforms in the printed section (default: square)",
    )
    options = parser.parse_args(arguments)
    try:
        section = export(options.in_dir, options.out_dir, options.image_dir, options.image_aspect_ratio)
    except (DataDirError, ExportError) as error:
        return _fail(WRONG_INPUT, str(error))
    except (ShardError, RuntimeError) as error:
        return _fail(FAILED, str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(
            FAILED, f"{where}{error.strerror or error}; fix this and rerun the command: finished files are kept"
        )
    except KeyboardInterrupt:
        return _fail(130, "interrupted; rerun the command to resume: finished files are kept")
    print(yaml.safe_dump({"train_input": section}, sort_keys=False), end="")
    return DONE


def export(
    in_dir: Path, out_dir: Path, image_dir: str | None = None, aspect_ratio: AspectRatio = "square"
) -> dict[str, Any]:
    """Write the missing files, then `data_params.json`.

    Args:
        in_dir: a finished dataset that is not packed.
        out_dir: output folder; created if it does not exist.
        image_dir: image folder in the result; None for that of the dataset's config.
        aspect_ratio: aspect ratio of the image transforms in the result.

    Returns:
        the section `train_input` of a ModelZoo params file.

    Raises:
        DataDirError: `in_dir` is not a finished dataset.
        ExportError: it cannot be exported, `out_dir` is a file or holds other files, or there is no `image_dir`.
        ShardError: a shard is damaged.
        OSError: no space, no permission, …
    """
    data_dir = read_data_dir(in_dir)
    params = data_dir.shards[0].params if data_dir.shards else None
    if data_dir.packing != "none":
        raise ExportError(
            f"{in_dir}: its rows are packed (processor.packing {data_dir.packing}), and ModelZoo's loader does not "
            "support segments; write the dataset with processor.packing none, and export that"
        )
    if data_dir.store_images != "path":
        raise ExportError(
            f"{in_dir}: its images are in the shards (dataset.store_images {data_dir.store_images}), and ModelZoo's "
            "loader reads image files; write the dataset with dataset.store_images path, and export that"
        )
    if params is None or not data_dir.rows:
        raise ExportError(f"{in_dir}: holds no rows, so there is nothing to export; give another dataset")
    if image_dir is not None and not Path(image_dir).expanduser().is_dir():
        raise ExportError(
            f"image folder {image_dir}: no such folder; give the one that image paths are relative to (for a path on "
            "another machine, edit img_data_dir in the printed section)"
        )
    layout = ModelZooLayout.of(data_dir)
    out = OutputLayout(out_dir.expanduser())
    if out.root.resolve() == data_dir.root.resolve():
        raise ExportError(f"{out_dir}: is the dataset itself; give another folder for the export")
    try:
        out.root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ExportError(
            f"{out_dir}: cannot be created as a folder, because a file has this name or that of a parent folder; "
            "give another folder for the export"
        ) from None
    # ModelZoo's reader opens every *.h5 in the folder, and fails on a file without rows.
    wanted = {out.root / shard.path.name: shard for shard in data_dir.shards if shard.rows}
    for path in sorted(out.root.glob("*.h5")):
        if path not in wanted:
            raise ExportError(f"{path}: is not a file of this export; remove it, or give another folder")
    if os.path.lexists(out.data_params) and not _is_of_an_export(out.data_params):
        raise ExportError(f"{out.data_params}: is not a file of an export; remove it, or give another folder")
    for left_over in out.temporaries():
        left_over.unlink(missing_ok=True)
    _export_files(wanted, layout, out)
    section = layout.train_input(
        str(out.root.resolve()),
        image_dir or params.config.dataset.image_dir or "",
        data_dir.image_size,
        aspect_ratio,
    )
    publish(out.data_params, [seal(_export_params(data_dir, layout, wanted), indent=True)])
    _remove_receipts(out, len(wanted))
    return section


def _is_of_an_export(path: Path) -> bool:
    try:
        return unseal(path).get("format") == FORMAT
    except (FileNotFoundError, DamagedError):
        return False


def _remove_receipts(out: OutputLayout, count: int) -> None:
    for number in range(count):
        out.export_receipt(number).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other files there do not belong to the export
        out.export_receipt(0).parent.rmdir()
        out.work.rmdir()


def _known_digest(out: OutputLayout, number: int, name: str) -> str | None:
    """Return the sha256 of a file as written, from its receipt or from a finished export."""
    for document in (out.export_receipt(number), out.data_params):
        with contextlib.suppress(FileNotFoundError, DamagedError, KeyError, TypeError):
            for file in unseal(document)["files"]:
                if file["name"] == name:
                    return str(file["sha256"])
    return None


def _export_files(wanted: dict[Path, Shard], layout: ModelZooLayout, out: OutputLayout) -> None:
    """Write the files that are missing or damaged, and a receipt of each."""
    out.export_receipt(0).parent.mkdir(parents=True, exist_ok=True)
    reader = ShardReader(list(wanted.values()), cache_blocks=1, verify=True)
    total = sum(shard.rows for shard in wanted.values())
    with tqdm(total=total, unit=" rows", unit_scale=True, disable=not sys.stderr.isatty()) as progress:
        for number, (path, shard) in enumerate(wanted.items()):
            if not _was_exported(path, shard, layout) or _known_digest(out, number, path.name) != sha256_of(path):
                made = make_file(_blocks(reader, number, shard), shard.rows, layout, shard.sha256)
                publish(path, [made])
                written = {"name": path.name, "sha256": hashlib.sha256(made).hexdigest()}
                publish(out.export_receipt(number), [seal({"files": [written]})])
            progress.update(shard.rows)


def _blocks(reader: ShardReader, number: int, shard: Shard) -> Iterator[Block]:
    for at in range(-(-shard.rows // BLOCK_ROWS)):
        block = reader.block(number, at)
        if any(image.path == NO_IMAGE for images in block.images for image in images):
            raise ExportError(
                f"{shard.path}: an image is called None, which ModelZoo's loader treats as no image; rename it, and "
                "write the dataset again"
            )
        yield block


def _was_exported(path: Path, shard: Shard, layout: ModelZooLayout) -> bool:
    """Return whether the file exists and names this shard as its source.

    Raises:
        ExportError: it holds another shard.
    """
    try:
        with open_regular(path) as raw, h5py.File(raw, "r") as file:
            source, shape = file.attrs.get("source_sha256"), file["data"].shape
    except FileNotFoundError:
        return False
    except (OSError, KeyError, NotRegularError) as error:
        raise ExportError(
            f"{path}: is not a file of this export ({error}); remove it, or give another folder"
        ) from None
    if source != shard.sha256.encode() or shape != (shard.rows, len(layout.features), layout.length):
        raise ExportError(f"{path}: was exported from another dataset; remove it, or give another folder")
    return True


def _export_params(data_dir: DataDir, layout: ModelZooLayout, files: dict[Path, Shard]) -> dict[str, Any]:
    """Return the content of `data_params.json`, with the keys that users of ModelZoo expect."""
    params = data_dir.shards[0].params
    return {
        "format": FORMAT,
        "data_processor": layout.processor,
        "features": list(layout.features),
        "image_start_idx": layout.image_start_idx,
        "num_patches": layout.num_patches,
        "max_num_img": layout.most_images,
        "max_sequence_length": layout.length,
        "vocab_size": data_dir.vocab_size,
        "pad_id": data_dir.pad_id,
        "eos_id": params.eos_id,
        "image_size": data_dir.image_size,
        "examples": data_dir.rows,
        "plan_digest": data_dir.plan_digest,
        "files": [
            {"name": path.name, "examples": shard.rows, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path, shard in files.items()
        ],
    }


def _fail(code: int, message: str) -> int:
    print(f"export_hdf5: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
