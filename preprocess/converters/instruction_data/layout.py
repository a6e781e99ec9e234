"""The names of the files that the steps of `instructions` write."""

from __future__ import annotations

REQUESTS = "requests-*.jsonl"
IMAGES = "images.jsonl"
REQUEST_REJECTS = "requests.rejects.jsonl"
RESULTS = "*results.jsonl"
# In a separate folder, since `create_hdf5_dataset` reads every JSONL file of its input folder.
RECORDS = "llava_jsonl/instructions.jsonl"
READ_REJECTS = "read.rejects.jsonl"
RETRY = "retry.jsonl"
REPORT = "report.json"


def requests_name(part: int) -> str:
    """The name of a file of requests, numbered from 0."""
    return f"requests-{part:05d}.jsonl"
