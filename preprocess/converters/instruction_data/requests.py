"""Annotations → requests, as lines for OpenAI's Batch API.

Format: https://platform.openai.com/docs/guides/batch. vLLM's `run_batch` takes the same lines.
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

# Of one file, by the Batch API: 50,000 requests and 200 MB.
MOST_LINES = 50_000
MOST_BYTES = 200_000_000
URL = "/v1/chat/completions"


@dataclass(frozen=True, kw_only=True)
class RequestPlan:
    """What to ask, of whom.

    Args:
        captions: COCO's captions file.
        instances: COCO's instances file; None if no kind needs boxes.
        prompts: the kinds to ask for, in the order of the requests of an image.
        model: its name at the endpoint.
        max_tokens: the most tokens an answer may have.
        extra_body: further fields of the body, such as temperature.
        limit: how many images to take, drawn by seed and image id; None for all.
        seed: of that draw.
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
    """What was written: images as counts, requests with their tokens, and annotations of images not in the file."""

    counts: Counts
    tokens: Mapping[Kind, Estimate]
    elsewhere: int


def write_requests(plan: RequestPlan, open_file: Callable[[str], LineFile]) -> Written:
    """Write requests, the images they are about, and the rejects."""
    annotations = read_annotations(plan.captions, plan.instances)
    photos = drawn(annotations.photos.values(), limit=plan.limit, seed=plan.seed)
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
            messages = prompt.messages(context(photo.captions, photo.boxes if kind.sees_boxes else ()))
            parts.write(_line(custom_id(kind, photo.id), plan.body(messages)))
            tokens[kind] += estimate(messages, prompt, plan.max_tokens)
    written = len(photos) + len(annotations.unreadable) - len(rejects)
    rejected = _write_rejects(rejects, open_file)
    return Written(Counts(written + len(rejects), written, rejected), tokens, annotations.elsewhere)


def drawn(photos: Iterable[Photo], *, limit: int | None, seed: int) -> list[Photo]:
    """`limit` of the photos, in their order; a smaller limit draws some of those that a larger one does."""
    listed = list(photos)
    if limit is None or limit >= len(listed):
        return listed

    def rank(photo: Photo) -> bytes:
        return blake2b(f"{seed}\0limit\0{photo.id}".encode(), digest_size=16).digest()

    chosen = {photo.id for photo in sorted(listed, key=rank)[:limit]}
    return [photo for photo in listed if photo.id in chosen]


class _Parts:
    """Files of requests, each within the limits of the Batch API."""

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
    """List the rejects in a file, if there are any, and count them by reason."""
    counted: dict[str, int] = {}
    if rejects:
        file = open_file(layout.REQUEST_REJECTS)
        for source, rejected in rejects:
            reason = rejected.reason.value
            entry = {"file": source.file, "position": source.position, "reason": reason, "detail": rejected.detail}
            file.write_json(entry)
            counted[reason] = counted.get(reason, 0) + 1
    return dict(sorted(counted.items()))
