"""Tokenizers of current models: the whole command compared with `encode_batch_fast` on the same rendered texts.

    python -m benchmarks --only tokens --chat llama_3=DIR --chat chatml_qwen=DIR

Two kinds of records: phase 2, and the same with one word in five replaced by random letters of several scripts, so that
few words repeat.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from benchmarks.generate import phase_2_records, write_records
from benchmarks.measure import Contestant, Section, run_alternating
from benchmarks.preprocessing import ONE_THREAD, command
from hdf5_writer.config import read_config
from hdf5_writer.stages import Stages
from preprocess.segments import Mark, Special, Text
from preprocess.tokenize.tokenizer import load_tokenizer

_KINDS = ["phase 2", "phase 2 with random words"]
_RECORDS = 100_000  # enough that start-up and the set-up of tiktoken take as small a share as in a real run
_BATCH_CALL = 5_000
_SCRIPTS = [(0x61, 0x7A), (0x3B1, 0x3C9), (0x430, 0x44F), (0x4E00, 0x9FA5), (0xAC00, 0xD7A3)]
Note = Callable[[str], None]


def run(folder: Path, chats: dict[str, Path], repeats: int, note: Note) -> list[Section]:
    """Make a table for each template and kind of records.

    Args:
        folder: for temporary files.
        chats: `system_prompt_style` → folder of its tokenizer.
        repeats: runs of each contestant.
        note: prints a progress message.
    """
    return [
        compare(folder / f"{style}-{number}", style, tokenizer, kind, repeats, note)
        for style, tokenizer in chats.items()
        for number, kind in enumerate(_KINDS)
    ]


def compare(folder: Path, style: str, tokenizer: Path, kind: str, repeats: int, note: Note) -> Section:
    """Measure one template with one kind of records."""
    count, out = _RECORDS, folder / "ours"
    loaded = load_tokenizer(str(tokenizer))
    records = phase_2_records(loaded, count)
    data = write_records(folder / "records.jsonl", records if kind == "phase 2" else with_random_words(records))
    arguments = [*command(tokenizer, data, out, 2, 1), f"dataset.system_prompt_style={style}"]
    config = read_config(arguments[3], arguments[4:])
    texts = write_records(folder / "texts.jsonl", rendered(data, Stages(config, loaded), _BATCH_CALL))
    ours = Contestant("ours, 1 process", arguments, count, "– (includes start, plan, checks, shards, report)", out)
    batch_call = Contestant(
        "`tokenizers` encode_batch_fast",
        ["-m", "benchmarks.baselines", "rendered-texts", "--data", str(texts), "--tokenizer", str(tokenizer)],
        _BATCH_CALL,
        "everything except tokenizing: reading, rendering, labels, masks, rows, files",
        environment=ONE_THREAD,
    )
    measured = run_alternating([ours, batch_call], repeats, note)
    receipts = [orjson.loads(path.read_bytes()) for path in (out / ".work" / "receipts").glob("*.json")]
    tokenize = sum(receipt["report"]["stages"]["tokenize"] for receipt in receipts)
    name = f"{style}, {kind}"
    ratios = {
        f"{name}: 1 process against encode_batch_fast": measured[0].rate / measured[1].rate,
        f"{name}: tokenizing only against encode_batch_fast": count / tokenize / measured[1].rate,
    }
    shutil.rmtree(folder)
    return Section(f"Tokenizers, {name}", measured, ours.name, ratios)


def rendered(data: Path, stages: Stages, count: int) -> Iterator[str]:
    """Yield the rendered texts of the first records, with special tokens as text."""
    tokens = stages.tokenizer.tokens
    of_marks = {
        Mark.BOS: "" if stages.tokenizer.bos_id is None else tokens[stages.tokenizer.bos_id],
        Mark.EOS: tokens[stages.tokenizer.eos_id],
    }
    with data.open("rb") as lines:
        for _, line in zip(range(count), lines, strict=False):
            segments = stages.renderer.render(stages.validate(orjson.loads(line), "llava"))
            yield "".join(
                segment.text
                if isinstance(segment, Text)
                else tokens[segment.id]
                if isinstance(segment, Special)
                else of_marks.get(segment, "")
                for segment in segments
            )


def with_random_words(records: Iterator[dict[str, Any]], share: float = 0.2, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Replace a share of the words of records by random letters, each word from one script."""
    random = np.random.default_rng(seed)

    def word(found: str) -> str:
        if found.startswith("<") or random.random() >= share:
            return found
        first, last = _SCRIPTS[random.integers(len(_SCRIPTS))]
        return "".join(map(chr, random.integers(first, last + 1, random.integers(3, 11)).tolist()))

    for record in records:
        for turn in record["conversations"]:
            turn["value"] = " ".join(map(word, turn["value"].split(" ")))
        yield record
