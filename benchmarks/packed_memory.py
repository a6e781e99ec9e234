"""Memory of the whole command when one shard has a million short records: `python -m benchmarks.packed_memory`.

Packed rows of 2,048 positions, one process, records of about 20 tokens: text only, with one image each, and all
rejected. Prints the peak resident set size of the largest process of the command.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.__main__ import note
from benchmarks.generate import IMAGE, words_of, write_records
from benchmarks.loading_data import QUICKSTART
from benchmarks.measure import Contestant, Measured, run_once
from benchmarks.preprocessing import command
from preprocess.tokenize.tokenizer import load_tokenizer

KINDS = ("text", "image", "rejected")
_TOKENIZER = QUICKSTART / "tokenizer"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--records", type=int, nargs="+", default=[1_000, 1_000_000], help="numbers of records, each in one shard"
    )
    options = parser.parse_args()
    print("| records in a shard | " + " | ".join(KINDS) + " |\n|---:|" + "---:|" * len(KINDS))
    for count in options.records:
        with tempfile.TemporaryDirectory() as folder:
            peaks = [peak_of(kind, count, Path(folder)) for kind in KINDS]
        print(f"| {count:,} | " + " | ".join(f"{peak / 2**20:,.0f} MB" for peak in peaks) + " |", flush=True)


def peak_of(kind: str, count: int, folder: Path) -> int:
    """Return the peak memory in bytes of the largest process.

    Raises:
        RuntimeError: the command failed.
    """
    note(f"{count:,} records, {kind}")
    data = write_records(folder / f"{kind}.jsonl", short_records(kind, count))
    out = folder / kind
    arguments = [
        *command(_TOKENIZER, data, out, 2, 1, "best_fit"),
        *(f"setup.samples_per_shard={count}", "setup.max_reject_fraction=1", "--keep-going"),
        *("dataset.system_prompt_style=mistral_instruct", "dataset.check_images=none", "dataset.image_size=28"),
    ]
    measured = Measured(kind, count, "")
    run_once(Contestant(kind, arguments, count, out=out), measured)
    return measured.peak_bytes


def short_records(kind: str, count: int) -> Iterator[dict[str, Any]]:
    """Yield records with a short question and answer; rejected ones have an unknown role."""
    words = words_of(load_tokenizer(str(_TOKENIZER)))[:100]
    image: dict[str, str] = {"image": IMAGE} if kind == "image" else {}
    role = "nobody" if kind == "rejected" else "human"
    for number in range(count):
        first, second, third = (words[number // 100**place % 100] for place in range(3))
        question = f"{'<image>' * len(image)}Say {first} {second}?"
        turns = [{"from": role, "value": question}, {"from": "gpt", "value": f"{first} {second} {third}"}]
        yield {"id": str(number), **image, "conversations": turns}


if __name__ == "__main__":
    main()
