"""Convert annotations to requests, as lines for OpenAI's Batch API.

Format: https://platform.openai.com/docs/guides/batch. vLLM's `run_batch` accepts the same lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from preprocess.converters.core.reasons import SourceReason
from preprocess.converters.core.receipt import Counts
from preprocess.converters.core.sources import SourceRecord
from preprocess.converters.instruction_data import layout
from preprocess.converters.instruction_data.coco import Photo, read_annotations
from preprocess.converters.instruction_data.contexts import context
from preprocess.converters.instruction_data.cost import Estimate, estimate
from preprocess.converters.instruction_data.file_set import LineFile
from preprocess.converters.instruction_data.kinds import Kind, custom_id
from preprocess.converters.instruction_data.prompts import Message, Prompt
from preprocess.rejects import Rejected

# Limits of the Batch API for one file: 50,000 requests and 200 MB.
MOST_LINES = 50_000
MOST_BYTES = 200_000_000
URL = "/v1/chat/completions"


@dataclass(frozen=True, kw_only=True)
class RequestPlan:
    """Everything that determines the requests.

    Args:
        captions: COCO's captions file.
        instances: COCO's instances file; None if no kind uses boxes.
        prompts: the prompts of the requested kinds, in the order of the requests of an image.
        model: name of the model at the endpoint.
        max_tokens: maximum number of tokens of an answer.
        extra_body: further fields of the request body, such as temperature.
        limit: number of images, sampled by seed and image id; None for all.
        seed: of that sample.
    """

    captions: Path
    instances: Path | None
    prompts: Mapping[Kind, Prompt]
    model: str
    max_tokens: int
    extra_body: Mapping[str, Any]
    limit: int | None
    seed: int

    def body(self, messages: list[Message]) -> dict[str, Any]:
        """The body of a request."""
        return {
            "model": self.model,
            "messages": messages,
            "max_completion_tokens": self.max_tokens,
            **self.extra_body,
        }


@dataclass(frozen=True)
class Written:
    """The result of writing requests.

    Attributes:
        counts: images that were read, written and rejected.
        tokens: estimate for the requests of each kind.
        unlisted: number of annotations of images that the captions file does not list.
    """

    counts: Counts
    tokens: Mapping[Kind, Estimate]
    unlisted: int


def write_requests(plan: RequestPlan, open_file: Callable[[str], LineFile]) -> Written:
    """Write the requests, the list of their images, and the rejects."""
    annotations = read_annotations(plan.captions, plan.instances)
    photos = sample_photos(annotations.photos.values(), limit=plan.limit, seed=plan.seed)
    parts, images = _Parts(open_file), open_file(layout.IMAGES)
    rejects = list(annotations.unreadable)
    tokens = dict.fromkeys(plan.prompts, Estimate())
    for photo in photos:
        fault = photo.fault or (
            None if photo.captions else Rejected(SourceReason.NO_CAPTION, "the image has no caption")
        )
        if fault is not None:
            rejects.append((photo.source, fault))
            continue
        images.write_json({"image_id": photo.id, "image": photo.image})
        for kind, prompt in plan.prompts.items():
            messages = prompt.messages(context(photo.captions, photo.boxes if kind.uses_boxes else ()))
            parts.write(_line(custom_id(kind, photo.id), plan.body(messages)))
            tokens[kind] += estimate(messages, prompt, plan.max_tokens)
    written = len(photos) + len(annotations.unreadable) - len(rejects)
    rejected = _write_rejects(rejects, open_file)
    return Written(Counts(written + len(rejects), written, rejected), tokens, annotations.unlisted)


def sample_photos(photos: Iterable[Photo], *, limit: int | None, seed: int) -> list[Photo]:
    """`limit` random photos, in their order; the sample of a smaller limit is a subset of that of a larger one."""
    listed = list(photos)
    if limit is None or limit >= len(listed):
        return listed

    def rank(photo: Photo) -> bytes:
        return blake2b(f"{seed}\0limit\0{photo.id}".encode(), digest_size=16).digest()

    chosen = {photo.id for photo in sorted(listed, key=rank)[:limit]}
    return [photo for photo in listed if photo.id in chosen]


class _Parts:
    """Splits the requests into files within the limits of the Batch API."""

    def __init__(self, open_file: Callable[[str], LineFile]) -> None:
        self._open_file = open_file
        self._part: LineFile | None = None
        self._number = self._lines = 0

    def write(self, line: bytes) -> None:
        if self._part is None or self._lines == MOST_LINES or self._part.size + len(line) > MOST_BYTES:
            self._part = self._open_file(layout.requests_name(self._number))
            self._number, self._lines = self._number + 1, 0
        self._part.write(line)
        self._lines += 1


def _line(request_id: str, body: Mapping[str, Any]) -> bytes:
    request = {"custom_id": request_id, "method": "POST", "url": URL, "body": body}
    return orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)


def _write_rejects(
    rejects: list[tuple[SourceRecord, Rejected]], open_file: Callable[[str], LineFile]
) -> dict[str, int]:
    """Write the rejects to a file, if there are any, and count them by reason."""
    counted: dict[str, int] = {}
    if rejects:
        file = open_file(layout.REQUEST_REJECTS)
        for source, rejected in rejects:
            reason = rejected.reason.value
            entry = {"file": source.file, "position": source.position, "reason": reason, "detail": rejected.detail}
            file.write_json(entry)
            counted[reason] = counted.get(reason, 0) + 1
    return dict(sorted(counted.items()))
