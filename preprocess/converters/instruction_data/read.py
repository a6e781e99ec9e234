"""Convert results to LLaVA conversations. Every line of results becomes one record or one reject."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from preprocess.converters.core.brief_instructions import choose
from preprocess.converters.core.canonical import IMAGE_TOKEN, an_object
from preprocess.converters.core.errors import InputError
from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.receipt import Counts
from preprocess.converters.core.sources import json_lines, lines
from preprocess.converters.instruction_data import layout, read_report
from preprocess.converters.instruction_data.answers import answer_of
from preprocess.converters.instruction_data.file_set import LineFile
from preprocess.converters.instruction_data.kinds import Kind, parse_custom_id
from preprocess.converters.instruction_data.parse import Round, rounds_of
from preprocess.converters.instruction_data.read_report import KindReport
from preprocess.rejects import Rejected, shorten


@dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """Everything that determines the records.

    Args:
        requests: the files of requests.
        images: the file with the image of each request.
        results: the files of results, in reading order; the first valid answer to a request is written.
        questions: questions for descriptions; one is chosen for each.
        image_prefix: path of the images relative to the parent folder of all images.
        seed: of the choice of questions, and of the position of the image.
    """

    requests: tuple[Path, ...]
    images: Path
    results: tuple[Path, ...]
    questions: tuple[str, ...]
    image_prefix: str
    seed: int


@dataclass(frozen=True)
class ReadOutcome:
    """The result of reading.

    Attributes:
        counts: result lines that were read, written and rejected; a request without a result is a reject too.
        kinds: statistics of each kind.
        retries: number of requests without a record.
    """

    counts: Counts
    kinds: dict[Kind, KindReport]
    retries: int


def write_records(plan: ReadPlan, open_file: Callable[[str], LineFile]) -> ReadOutcome:
    """Write the records, the rejects, the requests to send again, and the report.

    Raises:
        InputError: the files of requests or images are invalid.
    """
    return _Reading(plan, open_file).run()


class _Reading:
    def __init__(self, plan: ReadPlan, open_file: Callable[[str], LineFile]) -> None:
        self._plan, self._open_file = plan, open_file
        self._images = _images(plan.images)
        self._kinds = {kind: KindReport() for kind in Kind}
        # Request id → whether a record was written; None before its first result.
        self._written: dict[str, bool | None] = {}
        self._rejects: LineFile | None = None
        self._rejected: dict[str, int] = {}

    def run(self) -> ReadOutcome:
        for request_id, _ in _requests(self._plan.requests):
            if request_id in self._written:
                raise InputError(
                    f"the files of requests contain {request_id!r} twice; write them again with "
                    "`instructions requests --overwrite`"
                )
            kind, image_id = parse_custom_id(request_id)
            if image_id not in self._images:
                raise InputError(
                    f"{self._plan.images} has no image {image_id!r}, which a request is about; write both again with "
                    "`instructions requests --overwrite`"
                )
            self._written[request_id] = None
            self._kinds[kind].requests += 1
        self._read_results(self._open_file(layout.RECORDS))
        for request_id, written in self._written.items():
            if written is None:
                missing = Rejected(SourceReason.NO_ANSWER, "no result has this id")
                self._reject("", "", request_id, missing)
        retries = self._write_retries()
        rejected = dict(sorted(self._rejected.items()))
        self._open_file(layout.REPORT).write_json(read_report.as_json(self._kinds, rejected))
        records = sum(report.records for report in self._kinds.values())
        return ReadOutcome(Counts(records + sum(rejected.values()), records, rejected), self._kinds, retries)

    def _read_results(self, records: LineFile) -> None:
        for path in self._plan.results:
            for source in json_lines(path):
                request_id = None
                try:
                    if isinstance(source.value, Rejected):
                        raise source.value
                    entry = an_object(source.value)
                    request_id = entry.get("custom_id")
                    if not isinstance(request_id, str) or request_id not in self._written:
                        raise Rejected(SourceReason.UNKNOWN_ID, f"no request has the custom_id {request_id!r}")
                    if self._written[request_id]:
                        raise Rejected(SourceReason.DUPLICATE_ID, "an earlier answer to this request was written")
                    self._written[request_id] = False
                    kind, image_id = parse_custom_id(request_id)
                    rounds = rounds_of(answer_of(entry), kind)
                except Rejected as rejected:
                    self._reject(source.file, source.position, request_id, rejected)
                else:
                    rounds = self._with_question(request_id, rounds)
                    records.write_json(self._record(request_id, self._images[image_id], rounds))
                    self._kinds[kind].add(rounds)
                    self._written[request_id] = True

    def _with_question(self, request_id: str, rounds: tuple[Round, ...]) -> tuple[Round, ...]:
        """The rounds, with a question if the answer does not contain one."""
        if rounds[0].question:
            return rounds
        question = choose(self._plan.questions, seed=self._plan.seed, record_id=request_id, purpose="question")
        return (Round(question, rounds[0].answer),)

    def _record(self, request_id: str, image: str, rounds: tuple[Round, ...]) -> dict[str, object]:
        turns = []
        for number, each in enumerate(rounds):
            question = each.question
            if number == 0:
                forms = (f"{IMAGE_TOKEN}\n{question}", f"{question}\n{IMAGE_TOKEN}")
                question = choose(forms, seed=self._plan.seed, record_id=request_id, purpose="place of the image")
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": each.answer}]
        return {"id": request_id, "image": f"{self._plan.image_prefix}/{image}", "conversations": turns}

    def _reject(self, file: str, position: str, request_id: object, rejected: Rejected) -> None:
        if self._rejects is None:
            self._rejects = self._open_file(layout.READ_REJECTS)
        reason = rejected.reason.value
        self._rejects.write_json(
            {"custom_id": request_id, "file": file, "position": position, "reason": reason, "detail": rejected.detail}
        )
        self._rejected[reason] = self._rejected.get(reason, 0) + 1

    def _write_retries(self) -> int:
        left = [request_id for request_id, written in self._written.items() if not written]
        if left:
            file = self._open_file(layout.RETRY)
            for request_id, line in _requests(self._plan.requests):
                if not self._written[request_id]:
                    file.write(line + b"\n")
        return len(left)


def _requests(paths: tuple[Path, ...]) -> Iterator[tuple[str, bytes]]:
    for path in paths:
        for number, line in lines(path):
            try:
                request_id = orjson.loads(line)["custom_id"]
                parse_custom_id(request_id)
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError):
                raise InputError(
                    f"{path}, line {number}: found {shorten(line.decode('utf-8', 'replace'))}, expected a request; "
                    "write the file again with `instructions requests --overwrite`"
                ) from None
            yield request_id, line


def _images(path: Path) -> dict[str, str]:
    try:
        entries = [orjson.loads(line) for _, line in lines(path)]
        return {entry["image_id"]: entry["image"] for entry in entries}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise InputError(
            f"{path}: expected lines with image_id and image; write the file again with "
            "`instructions requests --overwrite`"
        ) from None
