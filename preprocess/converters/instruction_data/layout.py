"""The names of the files in the folder of the requests, and of results beside them."""

from __future__ import annotations

REQUESTS = "requests-*.jsonl"
IMAGES = "images.jsonl"
REQUEST_REJECTS = "requests.rejects.jsonl"
RESULTS = "*results.jsonl"
# Alone in a folder: `create_hdf5_dataset` takes every JSONL file of its input folder.
RECORDS = "llava_jsonl/instructions.jsonl"
READ_REJECTS = "read.rejects.jsonl"
RETRY = "retry.jsonl"
REPORT = "report.json"


def requests_name(part: int) -> str:
    """The name of one file of requests."""
    return f"requests-{part:05d}.jsonl"
