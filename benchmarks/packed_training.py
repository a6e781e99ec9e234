"""Train a tiny LLaVA on packed rows and on rows of one sample: `python -m benchmarks.packed_training`.

Measures one epoch over the same records, including reading images, in CPU seconds of one thread, so that other load on
the machine has little effect; counts samples. It is a separate command, since the trainer needs a newer transformers
than the loaders that `python -m benchmarks` compares with.

In such a small model, attention is most of the arithmetic, so dense masks cost a larger share than in a real model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

from benchmarks.__main__ import note
from benchmarks.loading_data import QUICKSTART, SampleChecksum
from benchmarks.measure import Contestant, Section, run_alternating
from benchmarks.packing import PACKED, SINGLE, checked, write_both

_ROWS = 4  # in a batch
_PART = {"intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 128}


def main() -> None:
    """Print the table, or the result of one contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--epoch", type=Path, metavar="DIR", help="measure only this dataset")
    parser.add_argument("--trim-to", type=int, help="with --epoch")
    parser.add_argument("--attention", default="sdpa", help="with --epoch")
    options = parser.parse_args()
    if options.epoch is not None:
        print(json.dumps(train(options.epoch, options.trim_to, options.attention)))
        return
    with tempfile.TemporaryDirectory() as folder:
        section = compare(Path(folder), options.samples, options.repeats)
    print(section.to_markdown())
    for result in section.measured:
        print(f"{result.name}: {result.printed['positions'] / result.rows:,.0f} positions per sample")
    for name, ratio in section.ratios.items():
        print(f"{name}: {ratio:.2f}")


def compare(folder: Path, samples: int, repeats: int) -> Section:
    """Measure every contestant in a separate process.

    Raises:
        RuntimeError: one failed, or trained on different samples.
    """
    packed, single = write_both(folder, samples, shards=1)

    def command(data: Path, *options: str) -> list[str]:
        return ["-m", "benchmarks.packed_training", "--epoch", str(data), *options]

    contestants = [
        Contestant(f"{PACKED}, `sdpa_by_sample`", command(packed, "--attention", "sdpa_by_sample"), samples),
        Contestant(f"{PACKED}, `sdpa`", command(packed), samples),
        Contestant(SINGLE, command(single), samples),
        Contestant(f"{SINGLE}, `trim_to` 64", command(single, "--trim-to", "64"), samples),
    ]
    measured = checked(run_alternating(contestants, repeats, note), samples)
    ratios = {f"{ours.name} / {other.name}": ours.rate / other.rate for ours in measured[:2] for other in measured[2:]}
    title = f"Training a tiny model on packed rows: {samples:,} samples, one epoch on a CPU, {_ROWS} rows per batch"
    return Section(title, measured, measured[0].name, ratios, "sample")


def train(folder: Path, trim_to: int | None, attention: str) -> dict[str, Any]:
    """Train one epoch after a warm-up batch; return seconds, computed positions and the checksum of the samples."""
    import torch

    from loaders import create_dataloader

    torch.set_num_threads(1)
    torch.manual_seed(0)
    loader = create_dataloader(
        folder / "ours",
        QUICKSTART / "images",
        _ROWS,
        trim_to=trim_to,
        image_dtype=torch.float32,
        drop_last=False,
    )
    model = _tiny_model(loader.dataset.data_dirs[0], attention)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(batch: Any) -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step(next(iter(loader)))
    checksum, positions, seconds = SampleChecksum(), 0, 0.0
    began = process_time()
    for batch in loader:
        step(batch)
        seconds += process_time() - began
        positions += batch["text_input_ids"].numel()
        checksum.add(batch)
        began = process_time()
    return {"seconds": seconds, "positions": positions, **checksum.to_json()}


def _tiny_model(data: Any, attention: str) -> Any:
    """Build a model with two layers in each part; the vision model is frozen, as in both phases."""
    from trainer.build import build_model, freeze
    from trainer.data import RowShape
    from trainer.params import ModelParams

    image_model = {**_PART, "image_size": data.image_size, "patch_size": 14}
    text_model = {**_PART, "vocab_size": data.vocab_size}
    params = ModelParams.model_validate({"attention": attention, "image_model": image_model, "text_model": text_model})
    shape = RowShape(data.image_start_idx, data.num_patches, data.image_size, data.max_sequence_length, data.vocab_size)
    model = build_model(params, shape, image_token_id=None)
    freeze(model, [r"^model\.vision_tower\."])
    return model


if __name__ == "__main__":
    main()
