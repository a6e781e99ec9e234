"""Implement `--dry-run`: print the plan, the first record as tokens and the expected fill of the rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hdf5_writer.config import Config
from hdf5_writer.fitting import fit_samples
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.inputs import Line, find_inputs
from hdf5_writer.planning.plan import OtherPlanError, Plan, make_plan
from hdf5_writer.report.fill import expected_fill
from hdf5_writer.resume import refuse_other_plan, refuse_unusable
from hdf5_writer.rows import RowLayout
from hdf5_writer.stages import Stages, parse_line, row_layout
from preprocess.images import require_image_dir
from preprocess.records import parse_record
from preprocess.rejects import Rejected
from preprocess.samples import Sample, batch_of

_MAX_TRIED = 1000
_MAX_PACKED = 2000


def describe_plan(config: Config, limit: int | None, *, overwrite: bool = False) -> str:
    """Return the text that `--dry-run` prints; nothing is written to the output folder.

    It begins with a warning if the folder holds a different dataset, unless `overwrite` is set.

    Raises:
        ConfigError: an error that would stop the run before its first task.
    """
    stages = Stages.for_planning(config)
    facts = stages.tokenizer_params()
    layout = row_layout(config, facts)
    require_image_dir(config.dataset)
    place = f"from image_start_idx {layout.image_start_idx}"
    if layout.image_start_idx is None:
        place = "at the position of the image in the text"
    files, others = find_inputs(config.setup.input_dir, config.setup.output_dir)
    output = OutputLayout(config.setup.output_dir)
    refuse_unusable(output)
    warnings = []
    if not overwrite:
        try:
            refuse_other_plan(config, limit, output, files)
        except OtherPlanError as error:
            warnings.append(f"warning: a run would be refused: {error}")
    # Counting the records of compressed inputs would require unpacking them completely.
    sampled = any(file.is_compressed for file in files) and (limit is None or limit > _MAX_PACKED)
    with tempfile.TemporaryDirectory() as folder:
        work = OutputLayout(Path(folder))
        work.work.mkdir()
        plan = make_plan(config, _MAX_PACKED if sampled else limit, facts, work)
        lines = [
            *warnings,
            *(
                f"{'' if sampled else f'{file.records:,} records':>20}  {file.path} ({file.bytes:,} bytes"
                f"{f', {file.record_format}' if file.records else ''})"
                for file in plan.inputs
            ),
            *(f"    not read          {other}" for other in others),
            f"{'records not counted (compressed inputs)' if sampled else f'{plan.records:,} records'} → "
            f"{'shards' if sampled else f'{plan.tasks} shard(s)'} of up to {config.setup.samples_per_shard:,} rows "
            f"in {config.setup.output_dir} ({'shuffled' if config.setup.shuffle else 'in order'})",
            f"rows of {layout.max_sequence_length} positions, {layout.num_patches} image slots {place}, "
            f"pad_id {layout.pad_id}",
            *([] if sampled else [f"plan digest {plan.digest}"]),
        ]
        for record in _first_records(plan, work, _MAX_TRIED):
            where = f"{plan.inputs[record.file].path}, line {record.number}"
            try:
                conversation = stages.read(parse_record(record.data), plan.inputs[record.file].record_format)
                sequence = stages.encode(conversation)
                *_, wrong = fit_samples(batch_of(sequence), layout)
                if wrong:
                    raise wrong[0]
            except Rejected as reject:
                lines.append(f"{where}: would be rejected: {reject}")
                continue
            several = "s" * (len(conversation.images) > 1)
            images = f" with image{several} {', '.join(conversation.images)}" if conversation.images else ", text only"
            lines += ["", f"{where}{images}:", *_render(stages, sequence, layout)]
            break
        lines += _fill_lines(config, stages, plan, work, layout)
    return "\n".join(lines)


def _fill_lines(config: Config, stages: Stages, plan: Plan, work: OutputLayout, layout: RowLayout) -> list[str]:
    """Return a table of the expected fill at several lengths, computed from the first accepted records."""
    attended, images = [], []
    for record in _first_records(plan, work, _MAX_PACKED):
        try:
            conversation = stages.validate(parse_line(record), plan.inputs[record.file].record_format)
            sequence = stages.encode(conversation)
        except Rejected:
            continue
        positions = len(sequence.ids) - 1 + len(sequence.image_at) * layout.num_patches
        if layout.truncate or positions <= layout.max_sequence_length:
            attended.append(positions)
            images.append(len(sequence.image_at))
    if not attended:
        return []
    chosen = layout.max_sequence_length
    dummy = 0 if layout.image_start_idx is None else layout.num_patches
    table = ["", f"expected fill, from the first {len(attended):,} records (none: no packing, one sample per row)"]
    table.append(" max_sequence_length     none  best_fit  samples/row")
    max_images = config.processor.max_images_per_row
    for length in (chosen // 2, chosen, chosen * 2):
        if length > layout.num_patches:
            fill = expected_fill(np.array(attended), np.array(images), length, dummy, max_images)
            now = " (chosen)" if length == chosen else ""
            shown = f"{length:>20,} {fill.unpacked:>8.1%}  {fill.packed:>8.1%}  {fill.samples_per_row:>11.2f}{now}"
            table.append(shown)
    return table


def _first_records(plan: Plan, work: OutputLayout, most: int) -> Iterator[Line]:
    for lines in plan.reader(work).read(np.arange(min(plan.records, most))):
        yield from lines


def _render(stages: Stages, sequence: Sample, layout: RowLayout) -> list[str]:
    """Return one line per token: position in the sequence, id, supervised or not, and piece."""
    supervised = np.zeros(len(sequence.ids), dtype=bool)
    for start, end in sequence.supervised:
        supervised[start:end] = True
    lines = [" position       id  supervised  token"]
    position = 0
    run_at, _ = layout.slot_runs(batch_of(sequence))
    kind = "image slots" if sequence.image_at else "dummy image slots, masked (text only)"
    for i, id_ in enumerate(sequence.ids.tolist()):
        for _ in range(int((run_at == i).sum())):
            lines.append(f"{position:>9}  … {layout.num_patches} {kind}")
            position += layout.num_patches
        lines.append(
            f"{position:>9}  {id_:>7}  {'    yes   ' if supervised[i] else '          '}  "
            f"{stages.tokenizer.tokens[id_]!r}"
        )
        position += 1
    return lines
