"""The findings at the top of the report: what the user should check first."""

from __future__ import annotations

from typing import Any, NamedTuple

from hdf5_writer.report.duplicates import Duplicates
from hdf5_writer.report.image_sample import ImageSample
from hdf5_writer.report.lengths import OtherLength

_MAX_KEYS = 6
_PACKING_PAYS = 1.5  # samples per row


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
        gain = f"with packing, the samples would need {packing.samples_per_row:.1f} times fewer rows"
        found.append(Finding("other-lengths", f"{fill}; {gain} (processor.packing: best_fit)."))
    if counts["rejected"]:
        reason, number = max(counts["rejected_by_reason"].items(), key=lambda item: item[1])
        share = counts["rejected"] / counts["read"]
        records = _records(counts["rejected"], "record was", "records were")
        only = len(counts["rejected_by_reason"]) == 1
        why = f"as {reason}" if only else f"most often as {reason} ({number:,})"
        found.append(Finding("rejects", f"{records} rejected ({share:.1%}), {why}."))
    if duplicates.surplus:
        rows = _records(duplicates.surplus, "sample has", "samples have")
        about = "About " if duplicates.every > 1 else ""
        found.append(Finding("duplicates", f"{about}{rows} the same images and text as another sample."))
    found += unreadable_images(sample)
    if sample.rotated:
        rotated = f"{sample.rotated:,} of {_inspected(sample)} have an EXIF orientation"
        found.append(Finding("images", f"{rotated}, which the loader does not apply."))
    if counts["truncated"]:
        rows = _records(counts["truncated"], "sample was", "samples were")
        text_only = counts["text_only_cut"]
        are = "it is" if counts["truncated"] == 1 else f"{text_only:,} of them {'is' if text_only == 1 else 'are'}"
        which = f"; {are} text only, with dummy image slots in the row" if text_only else ""
        found.append(
            Finding("other-lengths", f"{rows} truncated to {params['max_sequence_length']:,} positions{which}.")
        )
    if counts["dropped_rounds"]:
        rounds = _records(counts["dropped_rounds"], "round without an answer was", "rounds without an answer were")
        found.append(Finding("rejects", f"{rounds} dropped."))
    unused = counts["unused_keys"]
    if unused:
        shown = ", ".join(f"{key} ({records:,})" for key, records in list(unused.items())[:_MAX_KEYS])
        more = f" and {len(unused) - _MAX_KEYS} more" if len(unused) > _MAX_KEYS else ""
        found.append(Finding("inputs", f"Unused record keys: {shown}{more}."))
    return found


def unreadable_images(sample: ImageSample) -> list[Finding]:
    """Return findings about sampled image files that are missing or not readable as images."""
    kinds = ((sample.missing, "missing"), (sample.unreadable, "unreadable"))
    return [
        Finding("images", f"{len(paths):,} of {_inspected(sample)} are {what}, such as {paths[0]}.")
        for paths, what in kinds
        if paths
    ]


def _records(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _inspected(sample: ImageSample) -> str:
    return f"{sample.inspected:,} sampled image files"
