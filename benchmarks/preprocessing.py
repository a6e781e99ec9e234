"""Compare the whole command with what users would otherwise run, for both phases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.generate import phase_1_records, phase_2_records, write_records
from benchmarks.measure import ROOT, Contestant, Section, run_alternating
from preprocess.tokenize.tokenizer import load_tokenizer

IMAGES = ROOT / "configs" / "quickstart" / "images"
OURS, OURS_2, PACKED = "ours, 1 process", "ours, 2 processes", "ours, packed, 1 process"
BATCH_CALL = "`tokenizers` encode_batch"
ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
Note = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """Numbers of records per kind of contestant; slow ones get fewer, which does not affect their rate."""

    ours: int
    batch_call: int
    slow: int


FULL = Sizes(ours=200_000, batch_call=10_000, slow=1_000)
QUICK = Sizes(ours=30_000, batch_call=3_000, slow=300)


def command(tokenizer: Path, data: Path, out: Path, phase: int, processes: int, packing: str = "none") -> list[str]:
    """Return the Python arguments that run our whole command."""
    return [
        *("-m", "hdf5_writer.create_hdf5_dataset", "--config", f"llava_phase_{phase}_preproc.yaml"),
        f"setup.input_dir={data}",
        f"setup.output_dir={out}",
        f"setup.processes={processes}",
        f"processor.packing={packing}",
        f"processor.tokenizer_type={tokenizer}",
        f"dataset.image_dir={IMAGES}",
    ]


def run(folder: Path, tokenizer: Path, repeats: int, note: Note) -> list[Section]:
    """Compare phase 1 and phase 2 with all baselines."""
    return [compare(folder, tokenizer, phase, FULL, repeats, note, all_baselines=True) for phase in (1, 2)]


def run_quick(folder: Path, tokenizer: Path, note: Note) -> list[Section]:
    """Compare phase 2 with the batch call and on-the-fly tokenization, on little data."""
    return [compare(folder, tokenizer, 2, QUICK, 1, note, all_baselines=False)]


def compare(
    folder: Path, tokenizer: Path, phase: int, sizes: Sizes, repeats: int, note: Note, *, all_baselines: bool
) -> Section:
    """Compare one phase."""
    folder = folder / f"phase-{phase}"
    loaded = load_tokenizer(str(tokenizer))
    records = phase_1_records if phase == 1 else phase_2_records
    data = {
        count: write_records(folder / f"{count}.jsonl", records(loaded, count))
        for count in {sizes.ours, sizes.batch_call, sizes.slow}
    }

    def baseline(
        name: str, kind: str, count: int, not_included: str, *, writes: bool, processes: int = 1
    ) -> Contestant:
        out = folder / f"{kind}-{processes}" if writes else None
        arguments = ["-m", "benchmarks.baselines", kind, "--data", str(data[count]), "--tokenizer", str(tokenizer)]
        arguments += ["--out", str(out)] if out else []
        arguments += ["--processes", str(processes)] + (["--plain"] if phase == 1 else [])
        return Contestant(name, arguments, count, not_included, out, ONE_THREAD)

    ours = [
        Contestant(
            name,
            command(tokenizer, data[sizes.ours], folder / kind, phase, processes, packing),
            sizes.ours,
            "– (includes start, plan, checks, shards, report)",
            folder / kind,
        )
        for name, kind, processes, packing in (
            (OURS, "ours-1", 1, "none"),
            (OURS_2, "ours-2", 2, "none"),
            (PACKED, "packed-1", 1, "best_fit"),
        )
    ]
    only_tokens = "everything except tokenizing: reading, labels, masks, rows, files"
    no_rows = "image slots, fixed rows, checks, rejects; turns tokenized separately"
    others = [
        baseline(BATCH_CALL, "batch-call", sizes.batch_call, only_tokens, writes=False),
        baseline(
            "`tokenizers` encode_batch_fast",
            "batch-call-fast",
            sizes.batch_call,
            f"{only_tokens}; offsets",
            writes=False,
        ),
        baseline("on the fly, as LLaVA trains", "on-the-fly", sizes.slow, "files, padding, checks", writes=False),
    ]
    if all_baselines:
        others += [
            baseline(
                f"`datasets` map, {processes} process{'es' * (processes > 1)}",
                *("datasets-map", sizes.batch_call, no_rows),
                writes=True,
                processes=processes,
            )
            for processes in (1, 2)[:phase]
        ]
        others.append(
            baseline(
                "`encode` turn by turn, `h5py` gzip",
                *("h5py-gzip", sizes.slow, "checks, rejects, resuming; turns tokenized separately"),
                writes=True,
            )
        )
    measured = run_alternating([*ours, *others], repeats, note)
    params = json.loads((folder / "ours-1" / "data_params.json").read_text())
    counts, length = params["counts"], params["max_sequence_length"]
    tokens = params["tokens"]["text"] / counts["written"]
    shards = sum(path.stat().st_size for path in (folder / "ours-1").glob("*.h5"))
    by_name = {result.name: result for result in measured}
    ratios = {
        f"phase {phase}, 1 process against encode_batch on one thread": by_name[OURS].rate / by_name[BATCH_CALL].rate,
        f"phase {phase}, 1 process against the on-the-fly path": by_name[OURS].rate / by_name[others[2].name].rate,
        f"phase {phase}, 2 processes against 1": by_name[OURS_2].rate / by_name[OURS].rate,
        f"phase {phase}, packed against one sample per row": by_name[PACKED].rate / by_name[OURS].rate,
        f"phase {phase}, raw int32 against shards on disk": 4 * 4 * length * counts["written"] / shards,
    }
    if all_baselines:
        writer = by_name[others[-1].name]
        ratios[f"phase {phase}, 1 process against the h5py writer"] = by_name[OURS].rate / writer.rate
    shutil.rmtree(folder)
    title = f"Preprocessing, phase {phase}: {tokens:.0f} text tokens per record, {length:,} positions per row"
    return Section(title, measured, OURS, ratios)
