"""Alternatives that users would otherwise run on the same records; each is a process and uses none of our code.

    python -m benchmarks.baselines NAME --data FILE --tokenizer FOLDER [--out PATH] [--processes N]

Each prints `{"seconds": …}` of its work; importing libraries and loading the tokenizer do not count. All produce the
same text: template `plain` (phase 1) or `vicuna_v1` (phase 2), 576 image slots, 2,048 positions.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

IGNORE = -100
IMAGE_TOKEN, IMAGE_INDEX, SLOTS, LENGTH = "<image>", -200, 576, 2048
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(BASELINES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    print(json.dumps({"seconds": BASELINES[options.name](options)}))


def read_lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def load_fast_tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def turns_of(record: Record, plain: bool) -> list[tuple[str, bool]]:
    """(text, supervised) of each turn, as the template formats it; the image token is still in its text."""
    turns = record["conversations"]
    if plain:
        return [(IMAGE_TOKEN, False), (turns[1]["value"] + "\n", True)]
    texts = []
    for place, turn in enumerate(turns):
        if turn["from"] == "human":
            system = f"{SYSTEM} " if place == 0 else ""
            texts.append((f"{system}USER: {turn['value']} ASSISTANT:", False))
        else:
            texts.append((f" {turn['value']}</s>", True))
    return texts


def batch_call(options: argparse.Namespace, call: str = "encode_batch") -> float:
    """`tokenizers.Tokenizer.encode_batch`, the call transformers makes, on the rendered texts, on one thread."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    texts = ["".join(text for text, _ in turns_of(record, options.plain)) for record in read_lines(options.data)]
    seconds = 0.0
    for start in range(0, len(texts), 1000):  # in batches, as a pipeline would; all at once needs gigabytes
        part = texts[start : start + 1000]
        began = perf_counter()
        getattr(tokenizer, call)(part)
        seconds += perf_counter() - began
    return seconds


def batch_call_fast(options: argparse.Namespace) -> float:
    """As `batch_call`, without offsets."""
    return batch_call(options, "encode_batch_fast")


def rendered_texts(options: argparse.Namespace) -> float:
    """As `batch_call_fast`, on a file of rendered texts with special tokens: one JSON string per line."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    texts = list(read_lines(options.data))
    seconds = 0.0
    for start in range(0, len(texts), 1000):
        part = texts[start : start + 1000]
        began = perf_counter()
        tokenizer.encode_batch_fast(part, add_special_tokens=False)
        seconds += perf_counter() - began
    return seconds


def datasets_map(options: argparse.Namespace) -> float:
    """`datasets`: read the JSON lines, `map(batched=True, num_proc=N)`, save as Arrow."""
    import datasets

    datasets.disable_progress_bars()
    cache = options.out.with_suffix(".cache")
    shutil.rmtree(cache, ignore_errors=True)  # otherwise the next run reuses the cached result
    tokenizer = load_fast_tokenizer(options.tokenizer)
    began = perf_counter()
    data = datasets.load_dataset("json", data_files=str(options.data), split="train", cache_dir=str(cache))
    data = data.map(
        MaskedTurns(tokenizer, options.plain),
        batched=True,
        num_proc=options.processes if options.processes > 1 else None,
        remove_columns=[name for name in data.column_names if name != "image"],
    )
    data.save_to_disk(str(options.out))
    return perf_counter() - began


class MaskedTurns:
    """Tokenize all turns of a batch of records in one call, then join them with the prompts masked."""

    def __init__(self, tokenizer: Any, plain: bool) -> None:
        self.tokenizer = tokenizer
        self.plain = plain

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[list[int]]]:
        turns = [turns_of({"conversations": turns}, self.plain) for turns in batch["conversations"]]
        encoded = iter(
            self.tokenizer([t for record in turns for t, _ in record], add_special_tokens=False)["input_ids"]
        )
        ids, labels = [], []
        for record in turns:
            row, targets = [self.tokenizer.bos_token_id], [IGNORE]
            for _, supervised in record:
                tokens = next(encoded)
                row += tokens
                targets += tokens if supervised else [IGNORE] * len(tokens)
            ids.append(row)
            labels.append(targets)
        return {"input_ids": ids, "labels": labels}


def on_the_fly(options: argparse.Namespace) -> float:
    """Tokenize samples one by one in random order, as LLaVA's training code does on access.

    It tokenizes the text around the image, then each round and each instruction again to get their lengths.
    """
    import numpy as np

    tokenizer = load_fast_tokenizer(options.tokenizer)
    records = list(read_lines(options.data))
    random.Random(0).shuffle(records)
    began = perf_counter()
    for record in records:
        text = "".join(text for text, _ in turns_of(record, options.plain))
        ids = np.array(tokenize_around_image(text, tokenizer))
        targets = ids.copy()
        if options.plain:
            targets[: len(tokenize_around_image(IMAGE_TOKEN, tokenizer))] = IGNORE
            continue
        at = 1
        targets[:at] = IGNORE
        for round_ in text.split("</s>"):
            if not round_:
                break
            instruction = round_.split(" ASSISTANT: ")[0] + " ASSISTANT: "
            length = len(tokenize_around_image(round_, tokenizer))
            targets[at : at + len(tokenize_around_image(instruction, tokenizer)) - 2] = IGNORE
            at += length
        targets[at:] = IGNORE
    return perf_counter() - began


def tokenize_around_image(text: str, tokenizer: Any) -> list[int]:
    ids: list[int] = []
    for place, part in enumerate(text.split(IMAGE_TOKEN)):
        if place:
            ids.append(IMAGE_INDEX)
        encoded = tokenizer(part)["input_ids"]
        ids += encoded if not place or encoded[:1] != [tokenizer.bos_token_id] else encoded[1:]
    return ids


def h5py_gzip(options: argparse.Namespace) -> float:
    """Tokenize turn by turn with `encode`, pad rows in Python, and write 1,000 rows per file with h5py and gzip."""
    import h5py
    import numpy as np

    tokenizer = load_fast_tokenizer(options.tokenizer)
    options.out.mkdir()
    began = perf_counter()
    for number, records in enumerate(chunks(read_lines(options.data), 1000)):
        rows = [fixed_row(record, options.plain, tokenizer) for record in records]
        with h5py.File(options.out / f"{number:05d}.h5", "w") as file:
            for column, name in enumerate(("text_input_ids", "labels", "loss_mask", "key_padding_mask")):
                data = np.array([row[column] for row in rows], dtype=np.int32)
                file.create_dataset(name, data=data, chunks=(1, LENGTH), compression="gzip")
            paths = [[(record.get("image") or "").encode()] for record in records]
            file.create_dataset("image_paths", data=np.array(paths))
    return perf_counter() - began


def fixed_row(record: Record, plain: bool, tokenizer: Any) -> tuple[list[int], list[int], list[int], list[int]]:
    ids, mask, image = [tokenizer.bos_token_id], [0], False
    for text, supervised in turns_of(record, plain):
        for place, part in enumerate(text.split(IMAGE_TOKEN)):
            if place:
                ids += [0] * SLOTS
                mask += [0] * SLOTS
                image = True
            if part:
                tokens = tokenizer.encode(part, add_special_tokens=False)
                ids += tokens
                mask += [int(supervised)] * len(tokens)
    if not image:
        ids[1:1], mask[1:1] = [0] * SLOTS, [0] * SLOTS
    used = min(len(ids) - 1, LENGTH)
    padding = [0] * (LENGTH - used)
    hidden = [0] * used if image else [0] + [1] * SLOTS + [0] * (used - SLOTS - 1)
    return (
        ids[:used] + padding,
        ids[1 : used + 1] + padding,
        mask[1 : used + 1] + padding,
        hidden + [1] * len(padding),
    )


def chunks(items: Iterable[Record], size: int) -> Iterator[list[Record]]:
    part: list[Record] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


BASELINES: dict[str, Callable[[argparse.Namespace], float]] = {
    "batch-call": batch_call,
    "batch-call-fast": batch_call_fast,
    "rendered-texts": rendered_texts,
    "datasets-map": datasets_map,
    "on-the-fly": on_the_fly,
    "h5py-gzip": h5py_gzip,
}

if __name__ == "__main__":
    main()
