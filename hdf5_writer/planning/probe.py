"""Check a sample of the records before a run starts, to detect a wrong image folder or format early."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hdf5_writer.config import Config
from hdf5_writer.fitting import fit_samples
from hdf5_writer.layout import OutputLayout
from hdf5_writer.planning.inputs import Line
from hdf5_writer.planning.plan import Plan
from hdf5_writer.rows import RowLayout
from hdf5_writer.stages import Stages, parse_line, row_layout, warm_tokenizer
from preprocess.config import ConfigError
from preprocess.conversation import Conversation
from preprocess.image_files import looks_like_an_image
from preprocess.images import ImageChecker
from preprocess.regular_files import open_regular
from preprocess.rejects import Reason, Rejected
from preprocess.samples import batch_of

MAX_PROBED = 500
MIN_PROBED = 20
_ABOUT_IMAGES = (Reason.IMAGE_MISSING, Reason.IMAGE_OUTSIDE, Reason.IMAGE_UNREADABLE)
_START = 64


class MostRejectedError(ConfigError):
    """Most of the sampled records would be rejected."""


def probed_records(records: Sequence[int]) -> npt.NDArray[np.int64]:
    """Choose the records to check: at most `MAX_PROBED`, from every input unless there are very many inputs.

    Half of the sample is divided equally among the inputs, the other half in proportion to their number of records.

    Args:
        records: number of records of each input.

    Returns:
        shape (n,), int64, ascending.
    """
    total, half = sum(records), MAX_PROBED // 2
    if len(records) > half:
        count = min(total, MAX_PROBED)
        return np.arange(count, dtype=np.int64) * total // max(count, 1)
    chosen, first = [], 0
    for count in records:
        share = min(count, half // len(records) + half * count // max(total, 1))
        chosen.append(first + np.arange(share, dtype=np.int64) * count // max(share, 1))
        first += count
    return np.concatenate(chosen)


def probe(plan: Plan, layout: OutputLayout) -> list[str]:
    """Process a sample of the records as a task would, without writing rows or decoding images.

    Args:
        plan: the whole plan; the choice of records depends only on it.
        layout: the folder that holds its index.

    Returns:
        warnings, one sentence each.

    Raises:
        MostRejectedError: most of at least `MIN_PROBED` records would be rejected for one reason, or an input is a
            JSON array instead of JSON lines.
        ConfigError: a record requires a key that the config does not set.
    """
    config = _without_decoding(plan.local_config())
    decodes = plan.config.dataset.check_images == "decode"
    stages = Stages(config, warm_tokenizer(plan.config))
    rows = row_layout(plan.config, plan.tokenizer)
    # Check single files: listing a whole folder does not pay for a few hundred images.
    stages.images = ImageChecker(config.dataset.image_dir, config.dataset.check_images, max_names=0)
    reasons = Counter[Enum]()
    examples: dict[Enum, tuple[Line, Rejected]] = {}
    readable: set[int] = set()
    images = probed = 0
    others: list[Path] = []
    for line in _lines(plan, layout):
        probed += 1
        try:
            record = parse_line(line)
            readable.add(line.file)
            conversation = stages.read(record, plan.inputs[line.file].record_format)
            _fit(stages, conversation, rows)
            if config.dataset.check_images == "exists":
                images += len(conversation.images)
                paths = [Path(config.dataset.image_dir or "", image) for image in conversation.images]
                wrong = [path for path in paths if not _is_image(path)]
                others += wrong
                if wrong and decodes:
                    raise Rejected(Reason.IMAGE_UNREADABLE, "its first bytes are not those of an image file")
        except Rejected as found:
            reasons[found.reason] += 1
            examples.setdefault(found.reason, (line, found))
        except ConfigError as error:
            raise ConfigError(f"{plan.inputs[line.file].path}, line {line.number}: {error}") from None
    for number, (path, file) in enumerate(plan.input_paths()):
        content = layout.unpacked(number) if file.is_compressed else path
        if file.records and number not in readable and _starts_an_array(content):
            how = "unpack it and name" if file.is_compressed else "name"
            raise MostRejectedError(
                f"{path.absolute()}: is a JSON array, expected one JSON object a line; {how} it "
                f"{path.name.partition('.jsonl')[0]}.json, run `convert_json2jsonl --input_dir {path.parent}` and use "
                "the folder it writes"
            )
    for reason, count in reasons.most_common(1):
        if probed >= MIN_PROBED and count > max(0.5, config.setup.max_reject_fraction) * probed:
            line, reject = examples[reason]
            raise MostRejectedError(_refusal(plan, stages, line, reject, count, probed))
    if not others or decodes:
        return []
    return [
        f"warning: {len(others)} of {images} sampled image files are not images, such as {others[0].absolute()}; "
        "replace them, or set dataset.check_images: decode to reject their records"
    ]


def _without_decoding(config: Config) -> Config:
    """Return the config with images looked up but not decoded."""
    dataset = config.dataset
    if dataset.check_images != "decode":
        return config
    return config.model_copy(update={"dataset": dataset.model_copy(update={"check_images": "exists"})})


def _lines(plan: Plan, layout: OutputLayout) -> Iterator[Line]:
    for lines in plan.reader(layout).read(probed_records([file.records for file in plan.inputs])):
        yield from lines


def _fit(stages: Stages, conversation: Conversation, rows: RowLayout) -> None:
    """Raise the reject of a record that has no place in a row."""
    _, _, rejects = fit_samples(batch_of(stages.encode(conversation)), rows)
    for reject in rejects.values():
        raise reject


def _is_image(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return looks_like_an_image(file.read(_START))
    except OSError:
        return True  # unreadable files are reported elsewhere; this checks the content only


def _refusal(plan: Plan, stages: Stages, line: Line, reject: Rejected, count: int, probed: int) -> str:
    path, _ = plan.input_paths()[line.file]
    example = f"{path.absolute()}, line {line.number}: {reject.detail}"
    if reject.reason in _ABOUT_IMAGES:
        image = _rejected_image(plan, stages, line)
        example += f" (tried {os.path.abspath(Path(plan.local_config().dataset.image_dir or '', image))})"
    return (
        f"{count} of {probed} sampled records would be rejected as {reject.reason.value}, such as {example}; "
        "correct the data or the config"
    )


def _rejected_image(plan: Plan, stages: Stages, line: Line) -> str:
    """Return the image that causes the rejection: the first that fails its check, otherwise the first image."""
    images = stages.validate(parse_line(line), plan.inputs[line.file].record_format).images
    for image in images:
        try:
            stages.images.check(image)
        except Rejected:
            return image
    return images[0]


def _starts_an_array(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(_START).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
