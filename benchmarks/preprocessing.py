"""Speed and memory of the whole command, beside the Rust tokenizer's batch call alone on the same texts.

    python -m benchmarks.preprocessing [--tokenizer DIR] [--records 20000]

The stand-in does nothing but `tokenizers.Tokenizer.encode_batch` (the call transformers makes) over the rendered
texts, on one thread: no reading, no labels, no rows, no files. `encode_batch_fast` is the same without offsets. Ours
is the whole command with one process, from start to verified shards.
Both are timed in turn, several times; ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.generate import phase_2_records, write_records
from preprocess.config import SHIPPED_CONFIG_DIRS
from preprocess.tokenizer import load_tokenizer

QUICKSTART = next(folder for folder in SHIPPED_CONFIG_DIRS if folder.is_dir()) / "quickstart"

_BATCH_CALL = """
import json, sys, time
import tokenizers
from preprocess.conversation import RecordKeys, read_conversation
from preprocess.templates import TEMPLATES, Renderer, Text
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
renderer, texts = Renderer(TEMPLATES["vicuna_v1"]), []
for line in open(sys.argv[2], encoding="utf-8"):
    segments = renderer.render(read_conversation(json.loads(line), RecordKeys()))
    texts.append("".join(s.text for s in segments if isinstance(s, Text)))
for call in (tokenizer.encode_batch, tokenizer.encode_batch_fast):
    began = time.perf_counter()
    encoded = call(texts)
    print(time.perf_counter() - began)
print(sum(len(e.ids) for e in encoded) / len(texts))
"""


def batch_call_rates(tokenizer: Path, data: Path, records: int) -> tuple[float, float, float]:
    """Records/s of `encode_batch` and `encode_batch_fast` on one thread, and tokens a record."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    output = subprocess.run(
        [sys.executable, "-c", _BATCH_CALL, str(tokenizer), str(data)],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    ).stdout.split()
    return records / float(output[0]), records / float(output[1]), float(output[2])


def command_run(tokenizer: Path, data: Path, out: Path) -> tuple[float, int]:
    """(seconds, peak resident KB of its largest process) of the whole command with one process."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "hdf5_writer.create_hdf5_dataset", "--config", "llava_phase_2_preproc.yaml"]
    changes = [
        f"setup.input_dir={data}",
        f"setup.output_dir={out}",
        "setup.processes=1",
        f"processor.tokenizer_type={tokenizer}",
        f"dataset.image_dir={QUICKSTART / 'images'}",
    ]
    began = time.perf_counter()
    process = subprocess.Popen([*command, *changes], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the command ended with {process.returncode}")
    return seconds, usage.ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, default=QUICKSTART / "tokenizer", help="a folder with tokenizer.json")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    loaded = load_tokenizer(str(options.tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        data = write_records(Path(folder, "a.jsonl"), phase_2_records(loaded, options.records))
        large = write_records(Path(folder, "large.jsonl"), phase_2_records(loaded, 10 * options.records))
        batch, fast, ours, peaks = [], [], [], []
        tokens = 0.0
        for _ in range(options.repeats):
            rate, fast_rate, tokens = batch_call_rates(options.tokenizer, data, options.records)
            batch.append(rate)
            fast.append(fast_rate)
            seconds, peak = command_run(options.tokenizer, data, Path(folder, "out"))
            ours.append(options.records / seconds)
            peaks.append(peak)
        size = sum(path.stat().st_size for path in Path(folder, "out").glob("*.h5"))
        width = json.loads(Path(folder, "out", "data_params.json").read_text())["max_sequence_length"]
        large_seconds, large_peak = command_run(options.tokenizer, large, Path(folder, "out"))
    mine, theirs = statistics.median(ours), statistics.median(batch)
    print(f"{options.records:,} records of {tokens:.0f} text tokens, tokenizer {options.tokenizer.name}, one process\n")
    print("| | records/s | ratio |")
    print("|---|---|---|")
    print(f"| the whole command | {mine:,.0f} | {mine / theirs:.2f} |")
    print(f"| the Rust tokenizer's `encode_batch` alone | {theirs:,.0f} | 1.00 |")
    print(
        f"| its `encode_batch_fast` alone | {statistics.median(fast):,.0f} | {statistics.median(fast) / theirs:.2f} |"
    )
    large_rate = 10 * options.records / large_seconds
    print(f"| the whole command, 10 times the records | {large_rate:,.0f} | {large_rate / theirs:.2f} |")
    print(f"\npeak memory: {statistics.median(peaks) / 1024:.0f} MB; with 10 times the records "
          f"{large_peak / 1024:.0f} MB, {large_peak / statistics.median(peaks):.2f} times as much")  # fmt: skip
    raw = 4 * 4 * width * options.records
    print(f"on disk: {size:,} bytes, 1/{raw / size:.1f} of the four arrays as int32")


if __name__ == "__main__":
    main()
