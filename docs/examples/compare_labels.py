"""Compare the labels of a dataset with those of on-the-fly tokenization, record by record.

    python docs/examples/compare_labels.py [OUTPUT_DIR]

Without OUTPUT_DIR, the embedded example is first written to quickstart_output. Needs torch for `loaders.lazy`, which
tokenizes on the fly and returns samples as LLaVA's own training code does (labels not shifted, -100 where there is no
loss, an image as one -200).
"""

import json
import sys
from pathlib import Path

import numpy as np

import hdf5_writer
from loaders.lazy import IGNORE_INDEX, IMAGE_TOKEN_INDEX, DataArguments, LazySupervisedDataset


def on_the_fly_labels(sample: dict, dummy_at: int | None, slots: int) -> np.ndarray:
    """Convert the labels of a lazy sample to those of a row: with image slots, shifted by one."""
    ids, labels = sample["input_ids"].numpy(), sample["labels"].numpy()
    found = np.flatnonzero(ids == IMAGE_TOKEN_INDEX)
    if not len(found) and dummy_at is None:
        return labels[1:]
    start, removed = (int(found[0]), 1) if len(found) else (dummy_at, 0)  # a fixed text-only row has dummy slots
    return np.concatenate([labels[:start], np.full(slots, IGNORE_INDEX), labels[start + removed :]])[1:]


def main(output_dir: str | None) -> tuple[int, int]:
    """Compare all samples; return how many were compared, and how many differ."""
    if output_dir is None:
        output_dir = "quickstart_output"
        hdf5_writer.create_dataset(hdf5_writer.load_config("quickstart.yaml", setup__output_dir=output_dir))
    params = json.loads((Path(output_dir) / "data_params.json").read_text())
    dataset = params["config"]["dataset"]
    rows = hdf5_writer.inspect_rows(output_dir, range(params["rows"]))
    lazy = {
        file["path"]: LazySupervisedDataset(
            Path(params["config"]["setup"]["input_dir"]) / file["path"],
            params["tokenizer"]["name"],
            DataArguments(version=dataset["system_prompt_style"]),
        )
        for file in params["inputs"]
    }
    compared = different = 0
    for row in rows:
        for sample in row.samples:
            expected = on_the_fly_labels(
                lazy[sample.file][sample.line - 1], params["image_start_idx"], params["num_patches"]
            )
            here = slice(sample.start, sample.start + sample.length)
            labels = np.where(row.loss_mask[here] == 1, row.labels[here], IGNORE_INDEX)
            compared += 1
            if not np.array_equal(labels, expected[: len(labels)]):
                different += 1
                print(f"{sample.file}, line {sample.line}: the labels differ")
    print(f"{compared} samples compared, {different} differ")
    return compared, different


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
