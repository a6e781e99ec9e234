"""The names of the files in the folder that the three steps share."""

from __future__ import annotations

from pathlib import Path

from preprocess.converters.errors import InputError

REQUESTS = "requests-*.jsonl"
IMAGES = "images.jsonl"
REQUEST_REJECTS = "requests.rejects.jsonl"
RESULTS = "*results.jsonl"
# In a folder of its own, which can be given to create_hdf5_dataset.
RECORDS = "llava_jsonl/instructions.jsonl"
RECORD_REJECTS = "llava_jsonl/instructions.rejects.jsonl"
RETRY = "retry.jsonl"
REPORT = "report.json"


def requests_name(part: int) -> str:
    """The name of one file of requests."""
    return f"requests-{part:05d}.jsonl"


def request_files(path: Path) -> list[Path]:
    """The files that `--requests` means: the file itself, or those in the folder.

    Raises:
        InputError: there are none.
    """
    if path.is_file():
        return [path]
    files = sorted(path.glob(REQUESTS))
    if not files:
        found = "a folder without requests-*.jsonl" if path.is_dir() else "nothing"
        raise InputError(f"--requests is {path}, and there is {found}; give the folder of `instructions requests`")
    return files


def results_file(requests: Path) -> Path:
    """Where the results go if nobody says: `results.jsonl` in the folder; `retry.results.jsonl` for `retry.jsonl`."""
    if requests.is_file():
        return requests.with_name(f"{requests.name.removesuffix('.jsonl')}.results.jsonl")
    return requests / "results.jsonl"
