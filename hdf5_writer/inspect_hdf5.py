"""Command line of `inspect_hdf5`."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hdf5_writer import __version__
from preprocess.config import ConfigError
from preprocess.regular_files import unreadable

if TYPE_CHECKING:
    from hdf5_writer.viewer.chat import Side
    from hdf5_writer.viewer.dataset import InspectedDataset, SelectedSamples

DONE, FAILED, WRONG_INPUT = 0, 1, 2
_MAX_ON_A_PAGE = 500
_MAX_COMPARED = 2000

_EPILOG = """\
The page is a single file that loads nothing from the network: open it from disk or share it.
Exit codes: 0 done; 1 a shard cannot be read, or the page cannot be written; 2 wrong arguments or no such row.
"""


class _PageError(Exception):
    """The page cannot be written; the message is one sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except ConfigError as error:
        return _fail(WRONG_INPUT, str(error))
    except _PageError as error:
        return _fail(FAILED, str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # a reader such as `| head` has closed the pipe
        return DONE
    except PermissionError as error:
        return _fail(FAILED, f"{error.filename}: {unreadable(error, '')}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(FAILED, f"{where}{error.strerror or error}; run verify_hdf5_dataset to check the dataset")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="inspect_hdf5",
        description="Show rows of a dataset written by create_hdf5_dataset: writes an HTML page with images, "
        "conversations and every token, coloured as supervised, context, image slot, masked or padding.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("output_dir", type=Path, help="setup.output_dir of a finished run")
    rows = parser.add_argument_group("rows to show (choose one way)")
    which = rows.add_mutually_exclusive_group()
    which.add_argument(
        "--rows", type=_range, metavar="A:B", help="rows A to B-1, numbered over all shards (default 0:20)"
    )
    which.add_argument("--random", type=_positive, metavar="N", help="N random rows; see --seed")
    which.add_argument("--source", type=_source, metavar="FILE:LINE", help="the row of this input line (from 1)")
    which.add_argument("--image", metavar="PATH", help="rows with this image; give its path as in the records")
    which.add_argument("--text-only", action="store_true", help="rows that contain a sample without an image")
    rows.add_argument("--seed", type=int, default=0, help="seed of --random (default 0)")
    rows.add_argument(
        "--most",
        type=_positive,
        default=20,
        metavar="N",
        help="for --image, --text-only and --compare: maximum number of rows or differing records to show (default 20)",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OTHER_DIR",
        help="compare with another dataset: show samples of the same source records side by side where they differ; "
        f"compares the first {_MAX_COMPARED:,} samples unless rows are selected",
    )
    display = parser.add_argument_group("output")
    display.add_argument("--terminal", action="store_true", help="also print the rows as text")
    display.add_argument(
        "--image-aspect-ratio",
        choices=("square", "pad"),
        default="square",
        help="show images as the model sees them: central square (square), or padded to a square (pad); default square",
    )
    display.add_argument(
        "--image-dir", type=Path, metavar="DIR", help="folder of the images (default: that of the run)"
    )
    display.add_argument(
        "--tokenizer", metavar="NAME", help="tokenizer folder or Hugging Face name (default: that of the run)"
    )
    display.add_argument("--output", type=Path, metavar="FILE", help="path of the page (default OUTPUT_DIR/rows.html)")
    parser.add_argument("--version", action="version", version=f"llava-hdf5 {__version__}")
    return parser


def _run(options: argparse.Namespace) -> int:
    from hdf5_writer.publish import publish
    from hdf5_writer.viewer.compare import compare_samples
    from hdf5_writer.viewer.dataset import InspectedDataset
    from hdf5_writer.viewer.page import rows_page, write_comparison_page
    from hdf5_writer.viewer.terminal import terminal_row, wants_colour

    dataset = InspectedDataset(options.output_dir)
    chosen, selection = _select(dataset, options)
    selected = chosen if isinstance(chosen, dict) else {}
    output: Path = options.output or dataset.layout.rows_page
    _refuse_other_file(output)
    side = _side(dataset, options, options.tokenizer)
    coloured = wants_colour(sys.stdout)
    if options.compare is None:
        rows = [dataset.read(number) for number in chosen]
        with _writing(output):
            publish(output, [rows_page(side, rows, selection, selected)])
        if options.terminal:
            for row in rows:
                print(terminal_row(row, side.decoder, coloured=coloured, selected=selected.get(row.number, ())))
        print(f"{output}: {selection}")
    else:
        # The other dataset may have a different tokenizer, so --tokenizer applies only to the first.
        other = _side(InspectedDataset(options.compare), options, None)
        decoders = side.decoder, other.decoder
        found = compare_samples(dataset, other.dataset, chosen, decoders, min(options.most, _MAX_ON_A_PAGE))
        with _writing(output):
            write_comparison_page((side, other), found, selection, output)
        if options.terminal:
            for pair in found.pairs:
                for there, one in zip((side, other), pair, strict=True):
                    print(terminal_row(one.row, there.decoder, coloured=coloured, selected=(one.sample.number,)))
        differing = f"{found.compared:,} records compared, {found.differing:,} differ"
        print(f"{output}: {found.nothing_in_common or differing}")
    return DONE


def _refuse_other_file(output: Path) -> None:
    """Refuse to replace a file that is not a page of this package.

    Raises:
        ConfigError: the name does not end in .html, or such a file exists.
    """
    from hdf5_writer.publish import is_whole_page

    if output.suffix.lower() != ".html":
        raise ConfigError(f"--output {output}: the page is HTML; give a file name that ends in .html")
    if output.exists() and not output.is_dir() and not is_whole_page(output):
        raise ConfigError(
            f"{output}: exists and is not a page of inspect_hdf5; remove it, or give another path with --output FILE"
        )


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _PageError(
            f"{output}: cannot be written ({error.strerror or error}); give another path with --output FILE"
        ) from None


def _side(dataset: InspectedDataset, options: argparse.Namespace, tokenizer: str | None) -> Side:
    from hdf5_writer.viewer.chat import side_of

    side = side_of(dataset, tokenizer=tokenizer, image_dir=options.image_dir, aspect_ratio=options.image_aspect_ratio)
    if side.decoder.note:
        print(f"inspect_hdf5: {side.decoder.note}", file=sys.stderr)
    return side


def _select(dataset: InspectedDataset, options: argparse.Namespace) -> tuple[Iterable[int] | SelectedSamples, str]:
    """Return the selected row numbers (with the selected samples, for options that select samples) and a description.

    Raises:
        ConfigError: no such rows, or more than a page can show.
    """
    total = len(dataset)
    if not total:
        raise ConfigError(f"{options.output_dir}: the dataset has no rows; see rejects.jsonl there")
    if options.random is not None:
        _check_count(options.random, "--random")
        import numpy as np

        chosen = np.random.default_rng(options.seed).choice(total, min(options.random, total), replace=False)
        return sorted(chosen.tolist()), f"{len(chosen)} of {total:,} rows, drawn with seed {options.seed}"
    if options.source is not None:
        file, line = options.source
        rows = dataset.find_source(file, line, _MAX_ON_A_PAGE)
        if not rows:
            reason = dataset.reject_of(dataset.input_name(file), line)
            state = f"was rejected ({reason})" if reason else "is blank, or past the end of the file"
            raise ConfigError(f"--source {file}:{line}: the line {state}; choose another one")
        return rows, f"{file}, line {line}"
    if options.image is not None:
        most = min(options.most, _MAX_ON_A_PAGE)
        rows = dataset.find_image(options.image, most + 1)
        if not rows:
            raise ConfigError(f"--image {options.image}: no row has it; give the path as in the records")
        return _first(rows, most, f"with the image {options.image}")
    if options.text_only:
        most = min(options.most, _MAX_ON_A_PAGE)
        rows = dataset.find_text_only(most + 1)
        if not rows:
            raise ConfigError("--text-only: every sample of this dataset has an image; leave it out")
        what = "without an image" if dataset.params.image_start_idx is not None else "with a sample without an image"
        return _first(rows, most, what)
    default = 20 if options.compare is None else dataset.rows_of_first_samples(_MAX_COMPARED)
    start, stop = options.rows or (0, default)
    if start >= total:
        raise ConfigError(f"--rows {start}:{stop}: the dataset has {total:,} rows, 0 to {total - 1}")
    stop = min(stop, total)
    if options.compare is None:
        _check_count(stop - start, "--rows")
    which = f"rows {start}–{stop - 1}" if stop - start > 1 else f"row {start}"
    return range(start, stop), f"{which} of {total:,}"


def _first(rows: SelectedSamples, most: int, what: str) -> tuple[SelectedSamples, str]:
    """Return the first `most` rows, and a description that says whether there are more."""
    first = "first " if len(rows) > most else ""
    count = min(len(rows), most)
    which = f"the {first or 'only '}row" if count == 1 else f"the {first}{count} rows"
    return dict(list(rows.items())[:most]), f"{which} {what}"


def _check_count(count: int, option: str) -> None:
    if count > _MAX_ON_A_PAGE:
        raise ConfigError(f"{option}: asks for {count:,} rows, a page shows at most {_MAX_ON_A_PAGE}; ask for fewer")


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d*):(\d*)", text)
    start, stop = (int(found[1] or 0), int(found[2]) if found[2] else sys.maxsize) if found else (0, 0)
    if start >= stop:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of rows; give A:B with A below B, such as 0:20")
    return start, stop


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; give a whole number of at least 1")
    return int(text)


def _source(text: str) -> tuple[str, int]:
    file, colon, line = text.rpartition(":")
    if not colon or not file or not line.isascii() or not line.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form FILE:LINE, such as conversations.jsonl:12")
    return file, int(line)


def _fail(code: int, message: str) -> int:
    print(f"inspect_hdf5: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
