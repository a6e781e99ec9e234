"""Converts JSON files to JSONL: one line for each element of the top-level array of a file.

Reads every .json file in --input_dir and its sub-folders, in path order; hidden files and folders are skipped.
Writes .jsonl files in the same folder structure to <input_dir>_to_jsonl, or to --output_dir.
Records are not reformatted: numbers, texts, escapes, the order of keys and duplicate keys are kept. Only line breaks
and the whitespace around them are removed. Every record is checked to be valid JSON.
A file may begin with a UTF-8 byte order mark. A top-level object, a truncated file, NaN or Infinity, an extra comma or
any other invalid JSON ends the command with the file and the byte; no output is written for that file.
Files are read in blocks, not memory-mapped: memory grows with the largest record, not with the file.
"""

from __future__ import annotations

import argparse
import codecs
import os
from functools import partial
from pathlib import Path

import orjson

from preprocess.converters.core.converter import Converter
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.job import Job, Sink
from preprocess.converters.core.json_array import read_array
from preprocess.converters.core.sources import folder, nothing_found
from preprocess.folder_walk import walk_folder

_LONGEST_FIRST_LINE = 1 << 20


def one_line(record: bytes) -> bytes:
    """A valid JSON text in one line.

    Line breaks in strings are escaped, so every raw line break, with the whitespace around it, is between tokens.
    """
    if b"\n" in record or b"\r" in record:
        return b"".join(map(bytes.strip, record.splitlines()))
    return record


def _is_jsonl(path: Path) -> bool:
    """Whether a file starts with two lines of objects, of which the first is complete."""
    with path.open("rb") as file:
        first, following = file.readline(_LONGEST_FIRST_LINE), file.read(1)
    try:
        return following == b"{" and type(orjson.loads(first.removeprefix(codecs.BOM_UTF8))) is dict
    except orjson.JSONDecodeError:
        return False


def fill(path: Path, sink: Sink) -> None:
    """Write the elements of the array in a file, one per line."""
    if _is_jsonl(path):
        raise InputError(
            f"{path}: has one object a line, expected an array; rename it to {path.stem}.jsonl, which needs no "
            "conversion"
        )
    for batch in read_array(path, keep_values=False):
        lines = [*map(one_line, batch.raw), b""]
        sink.write(b"\n".join(lines), len(batch.raw))


def json_files(root: Path) -> list[Path]:
    """Every .json file below a folder, sorted by path; see `walk_folder`."""
    found: list[Path] = []
    for parent, names in walk_folder(root, hidden=False):
        found.extend(parent / name for name in names if name.lower().endswith(".json"))
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input_dir", type=Path, required=True, help="folder with the .json files")
    parser.add_argument("--output_dir", type=Path, help="folder for the .jsonl files; default: <input_dir>_to_jsonl")


def _plan(arguments: argparse.Namespace) -> list[Job]:
    root = folder(arguments.input_dir, "--input_dir")
    output_dir = arguments.output_dir
    if output_dir is None:
        named = Path(os.path.abspath(root))
        output_dir = named.with_name(f"{named.name}_to_jsonl")
    paths = json_files(root)
    if not paths:
        already = "; its .jsonl files need no conversion" if any(root.rglob("*.jsonl")) else ""
        raise InputError(f"{nothing_found('--input_dir', root, '.json files')}{already}")
    for path in paths:
        try:
            str(path.relative_to(root)).encode()
        except UnicodeEncodeError:
            raise InputError(f"{os.fsencode(path)!r}: the name is not UTF-8; rename it") from None
    outputs = {path: output_dir / path.relative_to(root).with_suffix(".jsonl") for path in paths}
    by_output = {output: path for path, output in outputs.items()}
    for path, output in outputs.items():
        if by_output[output] != path:
            raise InputError(f"{path} and {by_output[output]} would both be written to {output}; rename one of them")
    return [
        Job(
            output=outputs[path],
            inputs=(path,),
            input_root=root,
            settings=CONVERTER.settings(),
            fill=partial(fill, path),
        )
        for path in paths
    ]


CONVERTER = Converter(
    name="convert_json2jsonl",
    version=1,
    help="JSON files with an array of records, to JSONL",
    description=__doc__,
    example="--input_dir data/LLaVA-Pretrain",
    add_arguments=_add_arguments,
    plan=_plan,
)
