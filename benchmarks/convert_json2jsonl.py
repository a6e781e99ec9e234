"""Speed and memory of convert_json2jsonl compared with json.load + json.dumps, for large JSON arrays.

    python benchmarks/convert_json2jsonl.py [--megabytes 64] [--repeats 5]

Generates its data: conversations like LLaVA's, written by json.dump on one line and indented, and with quotation marks
or non-ASCII letters (as escapes) in every third sentence. Both sides read a file from the page cache and write a file;
ours also checks every record and waits until the file is on disk. Each runs in one process; the two take turns, and the
best repeat counts. The ratio is that of wall times; CPU time is shown too, since other load affects only the wall time.
"""

import argparse
import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from preprocess.preprocess_dataset import convert_json2jsonl_main

WORDS = """
the a of on in with and is are this image scene there two people man woman dog train kitchen table street bus near
standing sitting wearing holding appears background suggests various several different likely because while also
"""
QUOTED = ('a sign that says "stop"', "a café with a naïve painting", "the letters 停止")
KINDS = {
    "one line": {"escapes": False, "indent": None},
    "indented": {"escapes": False, "indent": 2},
    "many escapes": {"escapes": True, "indent": None},
}
COLUMNS = ("ours MB/s", "json MB/s", "ratio", "ours MB/CPU-s", "json MB/CPU-s", "our peak MiB")
MEASURE_PEAK = """
import sys
from preprocess.preprocess_dataset import convert_json2jsonl_main
convert_json2jsonl_main(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def sentence(chance: random.Random, escapes: bool) -> str:
    words = chance.choices(WORDS.split(), k=chance.randrange(8, 20))
    if escapes and chance.random() < 1 / 3:
        words.append(chance.choice(QUOTED))
    return " ".join(words).capitalize() + "."


def record(number: int, chance: random.Random, escapes: bool) -> dict:
    turns = []
    for turn in range(chance.choice((1, 1, 3, 5))):
        token = "" if turn else "<image>\n"
        answer = " ".join(sentence(chance, escapes) for _ in range(chance.randrange(1, 5)))
        turns.append({"from": "human", "value": token + sentence(chance, escapes)})
        turns.append({"from": "gpt", "value": answer})
    return {"id": f"{number:012d}", "image": f"coco/train2017/{number:012d}.jpg", "conversations": turns}


def make(path: Path, size: int, *, escapes: bool, indent: int | None) -> None:
    chance = random.Random(0)
    block = [record(number, chance, escapes) for number in range(2000)]
    times = max(1, size // len(json.dumps(block, indent=indent)))
    path.parent.mkdir()
    with open(path, "w", encoding="utf-8") as file:
        json.dump(block * times, file, indent=indent)


def with_json_module(source: Path, target: Path) -> None:
    with open(source, encoding="utf-8") as file:
        records = json.load(file)
    with open(target, "w", encoding="utf-8") as file:
        for one in records:
            file.write(json.dumps(one) + "\n")


def ours(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        assert convert_json2jsonl_main(["--input_dir", str(folder), "--overwrite"]) == 0


def timed(action, *arguments) -> tuple[float, float]:
    """Return wall time and CPU time in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    action(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def best(times: list[tuple[float, float]]) -> tuple[float, float]:
    return min(wall for wall, _ in times), min(cpu for _, cpu in times)


def peak_mebibytes(folder: Path) -> float:
    if not os.path.exists("/proc/self/status"):
        return float("nan")
    command = [sys.executable, "-c", MEASURE_PEAK, "--input_dir", str(folder), "--overwrite"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(printed.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64, help="size of each file")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'data':14} {'MB':>6} " + " ".join(f"{column:>13}" for column in COLUMNS))
    for name, options in KINDS.items():
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(temporary, "in", "data.json")
            make(source, arguments.megabytes * 1_000_000, **options)
            size = source.stat().st_size / 1e6
            fast, slow = [], []
            for _ in range(arguments.repeats):
                fast.append(timed(ours, source.parent))
                slow.append(timed(with_json_module, source, Path(temporary, "plain.jsonl")))
            (wall, cpu), (json_wall, json_cpu) = best(fast), best(slow)
            rates = (size / wall, size / json_wall, size / cpu, size / json_cpu)
            shown = [f"{rate:13.0f}" for rate in (*rates, peak_mebibytes(source.parent))]
            shown.insert(2, f"{json_wall / wall:13.1f}")
            print(f"{name:14} {size:6.0f} " + " ".join(shown), flush=True)


if __name__ == "__main__":
    main()
