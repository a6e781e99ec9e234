"""Run all benchmarks and print tables of ratios measured on this machine.

    python -m benchmarks                                   # all tables, under 10 minutes on 2 cores
    python -m benchmarks --tokenizer DIR --json out.json   # another tokenizer; also write the results as JSON
    python -m benchmarks --quick                           # under a minute; exit 1 if a ratio is below its bound

Needs `pip install 'llava-hdf5[bench]'`. Records, rows and images are generated in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import loading, packing, preprocessing, scaling, tokens
from benchmarks.measure import ROOT, Section

PARTS = ("preprocessing", "loading", "packing", "scaling", "tokens")
NEEDS: dict[str, tuple[str, ...]] = {
    "preprocessing": ("datasets",),
    "loading": ("datasets", "litdata", "streaming", "torch", "webdataset"),
    "packing": ("litdata", "torch"),
    "scaling": (),
    "tokens": (),
    "quick": ("datasets", "torch"),
}
BOUNDS = Path(__file__).with_name("bounds.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        default=ROOT / "configs" / "quickstart" / "tokenizer",
        help="folder with a tokenizer.json of the Llama family (default: the small embedded tokenizer)",
    )
    parser.add_argument(
        "--chat",
        action="append",
        default=[],
        metavar="STYLE=DIR",
        help="for the part tokens: a template and the folder of its tokenizer; can be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results to this file")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="runs per contestant; the median counts (default 3)"
    )
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="run only this part (default all); can be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="check a few ratios against the bounds in bounds.json")
    options = parser.parse_args()
    if not (options.tokenizer / "tokenizer.json").is_file():
        parser.error(f"--tokenizer {options.tokenizer}: there is no tokenizer.json in it")
    options.chat = dict(given.partition("=")[::2] for given in options.chat)
    for style, chat in options.chat.items():
        if not Path(chat, "tokenizer.json").is_file():
            parser.error(f"--chat {style}={chat}: there is no tokenizer.json in {chat!r}; give STYLE=DIR")
    if options.only and "tokens" in options.only and not options.chat:
        parser.error("--only tokens: give --chat STYLE=DIR, such as llama_3=DIR")
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}, expected at least 1")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: there is no such folder")
    needs = NEEDS["quick"] if options.quick else {name for part in options.only or PARTS for name in NEEDS[part]}
    missing = sorted(name for name in needs if find_spec(name) is None)
    if missing:
        parser.error(
            f"{', '.join(missing)} not installed: pip install 'llava-hdf5[bench]', best into an environment of its own"
        )
    began = perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = (quick if options.quick else full)(Path(folder), options)
    except RuntimeError as error:  # a contestant failed; the message contains its output
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    found["seconds"] = perf_counter() - began
    note(f"{found['seconds']:.0f} s in all")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return check_bounds(found["ratios"]) if options.quick else 0


def full(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Print each table when it is ready; return all results for --json."""
    parts = options.only or PARTS
    found: dict[str, Any] = {**machine(options.tokenizer), "sections": [], "ratios": {}}
    print(headline(found), flush=True)
    sections: list[Section] = []
    if "preprocessing" in parts:
        sections += show(preprocessing.run(folder, options.tokenizer, options.repeats, note))
    if "loading" in parts:
        sections += show(loading.run(folder, min(options.repeats, 2), False, note))
    if "tokens" in parts:
        chats = {style: Path(chat) for style, chat in options.chat.items()}
        sections += show(tokens.run(folder, chats, options.repeats, note))
    if "packing" in parts:
        sections += show(packing.run(folder, min(options.repeats, 2), note))
    for section in sections:
        found["sections"].append(section.to_json())
        found["ratios"] |= section.ratios
    if "scaling" in parts:
        points = scaling.measure_scaling(folder, options.tokenizer, note)
        print(f"\n## Scaling: phase 2, {scaling.PROCESSES} processes\n\n{scaling.scaling_table(points)}")
        print(f"\n## Time of a worker by stage\n\n{scaling.stage_table(points[-1])}", flush=True)
        found["scaling"] = scaling.scaling_json(points)
        found["ratios"] |= scaling.scaling_ratios(points)
    print("\n## Ratios\n\n| | |\n|---|---:|")
    for name, ratio in found["ratios"].items():
        print(f"| {name} | {ratio:.2f} |")
    return found


def quick(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the ratios that a change of the code must not halve."""
    sections = preprocessing.run_quick(folder, options.tokenizer, note) + loading.run(folder, 1, True, note)
    ratios = {name: ratio for section in sections for name, ratio in section.ratios.items()}
    return {**machine(options.tokenizer), "sections": [s.to_json() for s in sections], "ratios": ratios}


def check_bounds(ratios: dict[str, float]) -> int:
    """Compare the ratios with their bounds and return the exit code."""
    bounds: dict[str, float] = json.loads(BOUNDS.read_text())
    low = 0
    print("| | ratio | at least |\n|---|---:|---:|")
    for name, bound in bounds.items():
        verdict = "" if ratios[name] >= bound else " **too low**"
        low += bool(verdict)
        print(f"| {name} | {ratios[name]:.2f} | {bound:.2f}{verdict} |")
    return 1 if low else 0


def show(sections: list[Section]) -> list[Section]:
    for section in sections:
        print(f"\n{section.to_markdown()}", flush=True)
    return sections


def machine(tokenizer: Path) -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "python": platform.python_version(),
        "tokenizer": tokenizer.name,
    }


def headline(found: dict[str, Any]) -> str:
    return (
        f"{found['cores']} cores, {found['memory_bytes'] / 2**30:.0f} GiB, Python {found['python']}, "
        f"tokenizer `{found['tokenizer']}`; rows/s are of the median run, memory is that of the largest process"
    )


def note(text: str) -> None:
    """Print a progress message."""
    print(f"# {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
