"""The names of the files in the folder of the requests, and of results beside them."""

from __future__ import annotations

REQUESTS = "requests-*.jsonl"
IMAGES = "images.jsonl"
REQUEST_REJECTS = "requests.rejects.jsonl"
RESULTS = "*results.jsonl"


def requests_name(part: int) -> str:
    """The name of one file of requests."""
    return f"requests-{part:05d}.jsonl"
