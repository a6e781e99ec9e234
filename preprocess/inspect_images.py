"""Command line of `inspect_images DIR`."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from preprocess.image_audit import Audit, audit
from preprocess.rejects import shorten

DONE, FAILED, WRONG_INPUT = 0, 1, 2

_EPILOG = """\
Files are compared by the sha256 of their bytes. Pixels are not decoded; dataset.check_images=decode does that.
Exit codes: 0 done; 1 a folder cannot be read; 2 wrong arguments, or a folder without images.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    folders = [options.folder] if options.against is None else [options.folder, options.against]
    try:
        for folder in folders:
            if not folder.is_dir():
                problem = "is a file" if folder.exists() else "does not exist"
                print(f"inspect_images: {folder} {problem}, expected a folder of images", file=sys.stderr)
                return WRONG_INPUT
        here, *there = [audit(folder) for folder in folders]
        if here.files:
            for line in _lines(here, options.most):
                print(line)
        for folder, found in zip(folders, (here, *there), strict=True):
            if not found.formats:
                files = f"{found.files:,} file{'' if found.files == 1 else 's'}"
                print(
                    f"inspect_images: {folder} contains no images ({files}); give a folder of images",
                    file=sys.stderr,
                )
                return WRONG_INPUT
        for other in there:
            for line in _shared_lines(here, other, options.against, options.most):
                print(line)
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print(f"inspect_images: {error.filename}: {error.strerror}; make the folder readable", file=sys.stderr)
        return FAILED
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="inspect_images",
        description="Show statistics of a folder of images: formats, modes, sizes, EXIF rotations, duplicate files,\n"
        "and images that another folder contains too.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of images; read recursively")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="OTHER",
        help="also list images that are in both DIR and OTHER, such as in train and val",
    )
    parser.add_argument(
        "--most", type=_positive, default=5, metavar="N", help="examples of each kind to show (default 5)"
    )
    return parser


def _lines(found: Audit, limit: int) -> Iterator[str]:
    yield _row("files", f"{found.files:,} ({found.size:,} bytes)")
    yield _row("formats", _counted(found.formats))
    yield _row("modes", _counted(found.modes))
    for name, axis in (("width", 0), ("height", 1)):
        pixels = Counter[int]()
        for size, number in found.sizes.items():
            pixels[size[axis]] += number
        yield _row(name, _spread(pixels))
    yield _row("not readable", f"{len(found.unreadable):,}")
    yield from _examples(
        (f"{shorten(path, 200)}: {why}" for path, why in found.unreadable), limit, len(found.unreadable)
    )
    yield _row("EXIF rotation", f"{len(found.rotated):,}; training uses the pixels as stored")
    yield from _examples((f"{shorten(path, 200)}: {tag}" for path, tag in found.rotated), limit, len(found.rotated))
    duplicates = found.duplicates
    yield _row("duplicates", f"{len(duplicates):,} groups of identical files, {sum(map(len, duplicates)):,} files")
    yield from _examples((_paths(paths, limit) for paths in duplicates), limit, len(duplicates))


def _shared_lines(here: Audit, there: Audit, other: Path, limit: int) -> Iterator[str]:
    shared = here.shared_with(there)
    files = sum(len(paths) for paths, _ in shared), sum(len(paths) for _, paths in shared)
    yield _row("in both", f"{len(shared):,} distinct contents: {files[0]:,} files here, {files[1]:,} in {other}")
    lines = (f"{_paths(ours, limit)}; there {_paths(theirs, limit)}" for ours, theirs in shared)
    yield from _examples(lines, limit, len(shared))


def _row(name: str, value: str) -> str:
    return f"{name:<15}{value}"


def _examples(lines: Iterable[str], limit: int, total: int) -> Iterator[str]:
    for _, line in zip(range(limit), lines, strict=False):
        yield f"  {line}"
    if total > limit:
        yield f"  and {total - limit:,} more; --most {total} shows all"


def _paths(paths: Sequence[str], limit: int) -> str:
    more = f" = {len(paths) - limit:,} more" if len(paths) > limit else ""
    return " = ".join(shorten(path, 200) for path in paths[:limit]) + more


def _counted(numbers: Counter[str]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.most_common()) or "none"


def _spread(values: Counter[int]) -> str:
    """The smallest, largest and median value."""
    if not values:
        return "none"
    ordered, seen = sorted(values), 0
    for median in ordered:
        seen += values[median]
        if 2 * seen >= values.total():
            break
    return f"{ordered[0]:,} to {ordered[-1]:,}, median {median:,}"


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count; give a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
