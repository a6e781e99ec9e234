"""The findings at the top of the report: what the user should check first."""

from __future__ import annotations

from typing import Any, NamedTuple

from hdf5_writer.report.duplicates import Duplicates
from hdf5_writer.report.image_sample import ImageSample
from hdf5_writer.report.lengths import OtherLength

_MAX_KEYS = 6
_PACKING_PAYS = 1.5  # samples a row


class Finding(NamedTuple):
    """One sentence, and the id of the section of the report with the details."""

    section: str
    sentence: str


def find(
    params: dict[str, Any], duplicates: Duplicates, sample: ImageSample, packing: OtherLength | None = None
) -> list[Finding]:
    """Return the findings about a dataset.

    Args:
        params: content of `data_params.json`.
        duplicates: duplicate samples.
        sample: facts from the headers of some images.
        packing: expected effect of packing; None if rows are packed already.
    """
    counts = params["counts"]
    found = []
    if packing is not None and packing.samples_per_row >= _PACKING_PAYS:
        fill = f"{params['fill']:.1%} of the positions are used"
        gain = f"packed, the samples would take {packing.samples_per_row:.1f} times fewer rows"
        found.append(Finding("other-lengths", f"{fill}; {gain} (processor.packing: best_fit)."))
    if counts["rejected"]:
        reason, number = max(counts["rejected_by_reason"].items(), key=lambda item: item[1])
        share = counts["rejected"] / counts["read"]
        records = _records(counts["rejected"], "record was", "records were")
        found.append(Finding("rejects", f"{records} rejected ({share:.1%}), most often as {reason} ({number:,})."))
    if duplicates.surplus:
        rows = _records(duplicates.surplus, "sample repeats", "samples repeat")
        about = "About " if duplicates.every > 1 else ""
        found.append(Finding("duplicates", f"{about}{rows} the images and the text of another sample."))
    found += unreadable_images(sample)
    if sample.rotated:
        rotated = f"{sample.rotated:,} of {_inspected(sample)} stored rotated (EXIF)"
        found.append(Finding("images", f"{rotated}, and the model sees them as stored."))
    if counts["truncated"]:
        rows = _records(counts["truncated"], "sample was", "samples were")
        text_only = counts["text_only_cut"]
        which = f"; {text_only:,} of them are text only: dummy image slots take the place of text" if text_only else ""
        found.append(Finding("other-lengths", f"{rows} cut to {params['max_sequence_length']:,} positions{which}."))
    if counts["dropped_rounds"]:
        rounds = _records(counts["dropped_rounds"], "round without an answer was", "rounds without an answer were")
        found.append(Finding("rejects", f"{rounds} dropped."))
    unused = counts["unused_keys"]
    if unused:
        shown = ", ".join(f"{key} ({records:,})" for key, records in list(unused.items())[:_MAX_KEYS])
        more = f" and {len(unused) - _MAX_KEYS} more" if len(unused) > _MAX_KEYS else ""
        found.append(Finding("inputs", f"Keys of the records that are not used: {shown}{more}."))
    return found


def unreadable_images(sample: ImageSample) -> list[Finding]:
    """Return findings about sampled image files that are missing or not readable as images."""
    kinds = ((sample.missing, "missing now"), (sample.unreadable, "unreadable"))
    return [
        Finding("images", f"{len(paths):,} of {_inspected(sample)} {what}, such as {paths[0]}.")
        for paths, what in kinds
        if paths
    ]


def _records(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _inspected(sample: ImageSample) -> str:
    return f"{sample.inspected:,} sampled image files are"
