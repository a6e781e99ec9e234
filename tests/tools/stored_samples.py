"""Read the samples of any dataset through h5py, by record."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from hdf5_writer.layout import OutputLayout


class StoredSample(NamedTuple):
    """A sample as training sees it: its attended positions and the positions of its images among them."""

    ids: list[int]
    labels: list[int]
    loss: list[int]
    images: list[tuple[str, int, int]]  # path, first slot, slots


def stored_samples(root: Path) -> dict[tuple[int, int], StoredSample]:
    """(file index, line) → sample; fails if a record has two samples."""
    found: dict[tuple[int, int], StoredSample] = {}
    for path in OutputLayout(root).shards():
        with h5py.File(path) as file:
            wide = [file[name][:] for name in ("text_input_ids", "labels", "loss_mask", "key_padding_mask")]
            samples = {name: file[f"samples/{name}"][:].tolist() for name in file["samples"]}
            images = {name: file[f"images/{name}"][:].tolist() for name in file["images"]}
        for row in range(len(wide[0])):
            shown = range(images["offsets"][row], images["offsets"][row + 1])
            for at in range(samples["offsets"][row], samples["offsets"][row + 1]):
                start, end = samples["start"][at], samples["start"][at] + samples["length"][at]
                ids, labels, loss, hidden = (array[row, start:end] for array in wide)
                own = [
                    (images["path"][i].decode(), images["start"][i] - start, images["slots"][i])
                    for i in shown
                    if start <= images["start"][i] < end
                ]
                source = samples["source_file"][at], samples["source_line"][at]
                assert source not in found
                kept = hidden == 0
                true_labels = labels[kept]
                if hidden.any():
                    # Before the dummy slots of a fixed text-only row, the label is the first token after them.
                    true_labels = np.append(ids[kept][1:], labels[-1])
                found[source] = StoredSample(ids[kept].tolist(), true_labels.tolist(), loss[kept].tolist(), own)
    return found
